"""Two elastic stages, one with squeeze-and-excitation. One kernel only: the matrices of several do nothing in the
network itself, only in its sub-networks."""

TINY = {
    "ofa_mobilenetv3": {
        "base_widths": [8, 8, 16, 24],
        "final_size": 48,
        "feature_size": 64,
        "kernel_sizes": [5],
        "expand_ratios": [2, 3],
        "depths": [1, 2],
        "image_size": 32,
    }
}
