"""Windows that divide no map, a stage that keeps its size, SAM's parts at their narrowest."""

TINY = {
    "tinysam": {
        "vision_config": {
            "embed_dims": [8, 16, 24, 32],
            "depths": [1, 1, 2, 1],
            "num_heads": [2, 3, 4],
            "window_sizes": [3, 4, 4],
            "drop_path_rate": 0.1,
            "image_size": 64,
            "output_channels": 16,
            "num_pos_feats": 8,
            # The paper's 0.02 suits widths in the hundreds.
            "initializer_range": 0.2,
        },
        "prompt_encoder_config": {"mask_input_channels": 8},
        "mask_decoder_config": {"mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    }
}
