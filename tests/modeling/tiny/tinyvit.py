"""A window that divides no map, one as large as its map, and a stage without downsampling."""

TINY = {
    "tinyvit": {
        "embed_dims": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 3, 4],
        "window_sizes": [3, 4, 4],
        "downsample_strides": [2, 2, 1],
        "drop_path_rate": 0.1,
        # The paper's 0.02 suits widths in the hundreds.
        "initializer_range": 0.2,
        "image_size": 64,
    }
}
