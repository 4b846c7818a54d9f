"""Shallow: without trained batch norms the features of a deep network would overflow half precision."""

TINY = {
    "vig": {
        "hidden_sizes": (16, 16, 16),
        "depths": (1, 2),
        "stem_stride": 8,
        "stage_strides": (1, 1),
        "reduction_ratios": (1, 1),
        "num_neighbors": (4, 9),
        "classifier_hidden_size": 32,
        "image_size": 64,
    },
    "pyramidvig": {
        "hidden_sizes": (8, 8, 16),
        "depths": (1, 2),
        "stage_strides": (1, 2),
        "reduction_ratios": (2, 1),
        "classifier_hidden_size": 32,
        "image_size": 64,
    },
}
