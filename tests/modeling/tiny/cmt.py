"""Two stages that reduce the keys and two that do not, one of which has a single head."""

TINY = {
    "cmt": {
        "stem_channels": 8,
        "embed_dims": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "num_heads": [1, 2, 3, 4],
        "sr_ratios": [4, 2, 1, 1],
        "head_channels": 40,
        "drop_path_rate": 0.1,
        # The paper's 0.02 suits widths in the hundreds.
        "initializer_range": 0.2,
        "image_size": 64,
    }
}
