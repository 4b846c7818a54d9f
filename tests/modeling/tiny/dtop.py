"""Two taps before the last block, tokens leave after both."""

TINY = {
    "dtop": {
        "backbone_config": {
            "model_type": "vit",
            "image_size": 32,
            "patch_size": 4,
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.2,
        },
        "out_indices": [0, 1, 2],
        "thresholds": [0.5, 0.6],
        "keep_top_k": 2,
        "head_hidden_size": 12,
        "head_num_layers": 2,
        "head_num_attention_heads": 3,
        # The paper's 0.02 suits widths in the hundreds.
        "initializer_range": 0.2,
    }
}
