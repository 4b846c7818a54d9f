"""Handwritten digits on canvases: several real ones, of various sizes and contrasts, on a noisy ground."""

from functools import cache

import numpy as np
from PIL import Image

from .digits import DIGITS, read_digits

#: Split -> number of canvases. Test canvases hold digits that no training canvas has.
CANVASES = {"train": 800, "test": 120}
SIDE = 128
_IN_CARDS = "canvases with handwritten digits of scikit-learn, made here"


def named_in_cards(dataset: str | None) -> str | None:
    """What a card calls the data set of a task whose `digits` are these canvases."""
    return _IN_CARDS if dataset == DIGITS else dataset


@cache
def _digits(split: str) -> list[tuple[np.ndarray, int]]:
    return [(np.asarray(row["image"]), int(row["label"])) for row in read_digits()[split]]


def digit_canvas(split: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canvas `number` of a split: an image of bytes (height, width, 3), rows (digit, x1, y1, x2, y2) in pixels, and a
    map of bytes (height, width): 0 the ground, else the digit and one.

    From 1 to 6 digits of 14 to 44 pixels that overlap little; canvases are from 96 to 128 pixels high and wide.
    """
    rng = np.random.default_rng((7, list(CANVASES).index(split), number))
    height, width = rng.integers(96, SIDE + 1, 2)
    ground, noise = rng.uniform(20, 110), rng.uniform(2, 12)
    canvas = ground + rng.normal(0, noise, (height, width)) + np.linspace(-15, 15, width) * rng.uniform(-1, 1)
    digits, rows = _digits(split), []
    labels = np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.integers(1, 7)):
        image, label = digits[rng.integers(len(digits))]
        side = int(rng.integers(14, 45))
        ink = np.asarray(Image.fromarray(image).resize((side, side), Image.BICUBIC)) / 255
        ys, xs = np.nonzero(ink > 0.25)
        ink = ink[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        high, wide = ink.shape
        for _ in range(20):
            y, x = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
            box = [x, y, x + wide, y + high]
            if all(_overlap(box, other[1:]) < 0.05 for other in rows):
                strength = rng.uniform(60, 145)
                part = canvas[y : y + high, x : x + wide]
                canvas[y : y + high, x : x + wide] = part + ink * strength
                rows.append([label, *box])
                labels[y : y + high, x : x + wide][ink > 0.25] = label + 1
                break
    image = canvas.clip(0, 255).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2), np.array(rows, dtype=np.float64).reshape(-1, 5), labels


def _overlap(first: list, second: list) -> float:
    """Overlap over the smaller box."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(wide, 0) * max(high, 0) / min(areas)
