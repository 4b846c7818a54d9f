"""A block with a projection, one with a plain shortcut, and pooling before the projection."""

TINY = {
    "adabin": {
        "hidden_sizes": [16, 16, 32],
        "depths": [1, 2],
        "image_size": 64,
    }
}
