"""1797 handwritten digits that come with scikit-learn, as one more data set beside those of `datasets`; and the same
ones as another camera might have seen them, to adapt to."""

import numpy as np
from PIL import Image, ImageFilter

from .splits import check_built_in, load_splits, stratified_sample

#: Their name as a `--dataset`.
DIGITS = "digits"
#: Names of the others -> (how the 8×8 pictures differ, with a generator for what is random).
_SHIFTS = {
    "digits-blurred": lambda image, rng: image.resize((32, 32), Image.Resampling.BICUBIC).filter(
        ImageFilter.GaussianBlur(3.5)
    ),
    "digits-noisy": lambda image, rng: _noisy(image, rng, 64.0),
    "digits-faint": lambda image, rng: image.point(lambda value: 90 + value // 4),
    "digits-inverted": lambda image, rng: image.point(lambda value: 255 - value),
    "digits-small": lambda image, rng: _padded(image.resize((6, 6), Image.Resampling.BILINEAR)),
}


def load_image_splits(args, token: str | None) -> dict:
    """As `load_splits`, and `--dataset digits` or one of its shifted kinds: lists of `{"image": PIL image, "label":
    name}`."""
    if args.dataset != DIGITS and args.dataset not in _SHIFTS:
        return load_splits(args, token, known=(DIGITS, *_SHIFTS))
    check_built_in(args)
    splits = read_digits()
    if args.dataset in _SHIFTS:
        rng = np.random.default_rng(0)
        shift = _SHIFTS[args.dataset]
        splits = {name: [{**row, "image": shift(row["image"], rng)} for row in rows] for name, rows in splits.items()}
    return splits


def _noisy(image: Image.Image, rng: np.random.Generator, deviation: float) -> Image.Image:
    values = np.asarray(image) + deviation * rng.standard_normal((image.height, image.width))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _padded(image: Image.Image) -> Image.Image:
    whole = Image.new("L", (8, 8))
    whole.paste(image, (1, 1))
    return whole


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
