"""Reload the quickstart's model as any user would, fold it, and print what it sees.

python scripts/quickstart_predict.py outputs/quickstart_ghostnetv3_digits
"""

import sys

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import pipeline

import hf_effmodels  # noqa: F401  (registers the models with transformers)


def main(folder: str) -> None:
    classify = pipeline("image-classification", model=folder)
    digits = load_digits()
    pictures = [Image.fromarray(np.uint8(image * 255 / 16)).convert("RGB") for image in digits.images[-8:]]
    before = classify(pictures, top_k=1)
    classify.model.reparameterize()
    with torch.inference_mode():
        after = classify(pictures, top_k=1)
    print("\nThe last eight digits, by the trained model and after folding its branches:")
    for truth, trained, folded in zip(digits.target[-8:], before, after, strict=True):
        print(
            f"  a {truth}: {trained[0]['label']} ({trained[0]['score']:.3f}), "
            f"folded {folded[0]['label']} ({folded[0]['score']:.3f})"
        )
    print(f"\nThe model is in {folder}; next: README.md, or `hf-effmodels list`.")


if __name__ == "__main__":
    main(sys.argv[1])
