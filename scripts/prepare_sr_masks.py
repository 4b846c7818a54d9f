"""Write structure maps for the training of SAM-DiffSR: images and encoded segmentation masks as a `datasets` table.

    python scripts/prepare_sr_masks.py --dataset path/to/DF2K_HR --model facebook/sam-vit-huge --output data/df2k_maps
    python scripts/prepare_sr_masks.py --dataset skimage_photos --segmenter slic --output outputs/skimage_photos_slic

What a kill has left goes on where it was. `--help` lists all options.
"""

import sys
from pathlib import Path

# This folder has an evaluate.py, which would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_effmodels.training.tasks.super_resolution.prepare_masks import main  # noqa: E402

if __name__ == "__main__":
    main()
