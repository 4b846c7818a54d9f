"""Both kinds of blocks, with and without a residual, and stochastic depth of rate 0."""

TINY = {
    "tinynet": {
        "stem_size": 8,
        "stages": [[1, 3, 1, 1, 8], [2, 3, 2, 6, 16], [2, 5, 2, 6, 24]],
        "final_size": 48,
        "image_size": 64,
    }
}
