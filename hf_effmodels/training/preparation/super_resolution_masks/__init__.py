"""Structure maps for the training of SAM-DiffSR: images and encoded segmentation masks as a `datasets` table.

    hf-effmodels prepare super-resolution-masks --dataset path/to/DF2K_HR --model facebook/sam-vit-huge \\
        --output data/df2k_maps
    hf-effmodels prepare super-resolution-masks --dataset skimage_photos --segmenter slic --output outputs/photos_slic

What a kill has left goes on where it was.
"""

from .table import main

__all__ = ["main"]
