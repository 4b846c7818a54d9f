"""RepVGG blocks, and both ways around poolings and blocks; a distillation head without anchors."""

TINY = {
    "gold_yolo": {
        "hidden_sizes": [4, 8, 8, 12, 16],
        "depths": [2, 2, 2, 2],
        "stage_type": "csp",
        "neck_hidden_sizes": [8, 4, 8, 16],
        "neck_depth": 2,
        "low_fusion_size": 8,
        "low_fusion_depth": 1,
        "num_attention_heads": 2,
        "attention_key_size": 4,
        "head_type": "distillation",
        "reg_max": 4,
        "image_size": 64,
    }
}
