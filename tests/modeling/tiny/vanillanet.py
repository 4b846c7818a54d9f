"""Both kinds of pooling and a stage without."""

TINY = {
    "vanillanet": {
        "hidden_sizes": [16, 16, 24, 32],
        "strides": [1, 2, 2],
        "act_num": 1,
        "adaptive_pool_sizes": [0, 0, 5],
        # The papers' 0.02 suits widths in the thousands.
        "initializer_range": 0.2,
        "image_size": 64,
    }
}
