"""Blocks with and without a shortcut of their own, two heads that gather all stages, and weigh each other."""

TINY = {
    "cdfkd_mfs": {
        "hidden_sizes": [8, 16, 32, 32],
        "depths": [1, 2, 1],
        "num_heads": 2,
        "aggregation": "attention",
        "attention_size": 4,
        "image_size": 64,
    }
}
