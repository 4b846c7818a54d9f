"""1797 handwritten digits that come with scikit-learn, as one more data set beside those of `datasets`."""

import numpy as np
from PIL import Image

from .splits import check_built_in, load_splits, stratified_sample

#: Their name as a `--dataset`.
DIGITS = "digits"


def load_image_splits(args, token: str | None) -> dict:
    """As `load_splits`, and `--dataset digits`: lists of `{"image": PIL image, "label": name}`."""
    if args.dataset != DIGITS:
        return load_splits(args, token)
    check_built_in(args)
    return read_digits()


def read_digits() -> dict[str, list[dict]]:
    """The 8x8 gray digits as 8-bit images; a fifth of each class is the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    values = np.round(digits.images * (255 / 16)).astype(np.uint8)
    names = [str(number) for number in digits.target_names]
    rows = [
        {"image": Image.fromarray(value), "label": names[label]}
        for value, label in zip(values, digits.target, strict=True)
    ]
    test = stratified_sample(digits.target, 0.2)
    return {
        "train": [row for row, held_out in zip(rows, test, strict=True) if not held_out],
        "test": [row for row, held_out in zip(rows, test, strict=True) if held_out],
    }
