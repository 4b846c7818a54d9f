"""Two stages with the downsampling between them."""

TINY = {"bimlp": {"hidden_sizes": [8, 8, 16], "depths": [1, 1], "image_size": 64}}
