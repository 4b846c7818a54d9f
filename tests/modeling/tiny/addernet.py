"""Bottlenecks with and without a change of the shape."""

TINY = {"addernet": {"hidden_sizes": [8, 16, 24], "depths": [1, 2], "image_size": 64}}
