"""Both kinds of units in two stages."""

TINY = {
    "shufflenetv2": {"depths": [2, 3], "hidden_sizes": [8, 12, 20], "final_size": 32, "image_size": 64},
}
