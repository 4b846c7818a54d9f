"""Measure a model's accuracy on a data set; top-1, top-5 and the number of images are printed and written as JSON.

    python scripts/evaluate.py --model outputs/quickstart_ghostnetv3_digits --dataset digits
    accelerate launch scripts/evaluate.py --model org/ghostnetv3 --dataset ILSVRC/imagenet-1k --reparameterize true \
        --output ghostnetv3_imagenet.json
"""

import sys
from pathlib import Path

# This folder holds this file, which would hide the library of the same name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_effmodels.training import evaluate  # noqa: E402

if __name__ == "__main__":
    evaluate()
