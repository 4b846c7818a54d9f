"""Parts of images for training: crops, erased and exchanged rectangles. RandAugment is `randaugment.py`."""

import math
from collections.abc import Sequence

import numpy as np
import torch

_ATTEMPTS = 10


def random_resized_box(
    width: int, height: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random part (left, top, right, bottom) of an image: its share of the area is uniform in `scale`, the logarithm
    of its width / height uniform in `ratio`'s (https://arxiv.org/abs/1409.4842, section 6).

    After ten parts that do not fit it is the centre, as large as `ratio` allows.
    """
    for _ in range(_ATTEMPTS):
        area = rng.uniform(*scale) * width * height
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def erase(pixels: torch.Tensor, max_count: int, mode: str, rng: np.random.Generator) -> None:
    """Random erasing (https://arxiv.org/abs/1708.04896) of a normalised image (channels, height, width), in place.

    1 to `max_count` rectangles of together 2 to 33 per cent of the area, height / width from 0.3 to 1 / 0.3, filled
    with standard normal noise (`mode="pixel"`) or zeros (`"const"`).
    """
    channels, height, width = pixels.shape
    count = int(rng.integers(1, max_count + 1))
    for _ in range(count):
        for _ in range(_ATTEMPTS):
            area = rng.uniform(0.02, 1 / 3) * height * width / count
            aspect = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                if mode == "pixel":
                    filling = torch.from_numpy(rng.standard_normal((channels, h, w), dtype=np.float32))
                else:
                    filling = 0.0
                pixels[:, top : top + h, left : left + w] = filling
                break


def cut_box(height: int, width: int, share: float, y: int, x: int) -> tuple[int, int, int, int]:
    """CutMix's rectangle (top, bottom, left, right): 1 - `share` of the area around row `y` and column `x`, cut off at
    the borders (https://arxiv.org/abs/1905.04899, equation 2)."""
    side = math.sqrt(1 - share)
    rows, columns = int(height * side), int(width * side)
    top, left = max(0, y - rows // 2), max(0, x - columns // 2)
    return top, min(height, y + rows // 2), left, min(width, x + columns // 2)
