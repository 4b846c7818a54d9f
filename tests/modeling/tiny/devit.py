"""Two parts of other widths, one of them pruned unevenly, with both tokens and a fusion of two layers."""

TINY = {
    "devit": {
        "part_type": "deit",
        "parts": [
            {"hidden_size": 16, "head_dim": 4, "num_heads": [4, 2], "intermediate_sizes": [32, 12]},
            {"hidden_size": 12, "head_dim": 6, "num_heads": [2], "intermediate_sizes": [20]},
        ],
        "fusion_hidden_size": 10,
        "patch_size": 16,
        "image_size": 64,
    }
}
