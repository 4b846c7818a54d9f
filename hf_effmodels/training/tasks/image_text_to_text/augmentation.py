"""What the paper does to the images of COCO captions in training."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ...data import randaugment
from ...data.augment import random_resized_box

SCALE, RATIO = (0.5, 1.0), (3 / 4, 4 / 3)
#: Of RandAugment: operations per image, the probability of each, and its strength of 10.
OPERATIONS_PER_IMAGE, PROBABILITY, MAGNITUDE = 2, 0.5, 5.0
#: Pixels of a shift of strength 10.
_SHIFT = 10.0
_GRAY = (128, 128, 128)


class CaptionAugmentation:
    """Random crop of half the area or more, resized to `side`; mirroring; two of ten RandAugment operations of
    magnitude 5, each with probability 0.5 (those of BLIP, https://arxiv.org/abs/2201.12086)."""

    def __init__(self, side: int):
        self.side = side

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        box = random_resized_box(*image.size, SCALE, RATIO, rng)
        image = image.resize((self.side, self.side), Image.Resampling.BICUBIC, box=box)
        if rng.random() < 0.5:
            image = ImageOps.mirror(image)
        for index in rng.integers(len(_OPERATIONS), size=OPERATIONS_PER_IMAGE):
            if rng.random() < PROBABILITY:
                image = _OPERATIONS[index](image, rng)
        return image


def _enhanced(enhancer):
    return lambda image, rng: enhancer(image).enhance(MAGNITUDE / 10 * 1.8 + 0.1)


def _moved(operation):
    return lambda image, rng: operation(image, MAGNITUDE, rng, Image.Resampling.BILINEAR, _GRAY)


def _shifted(axis: int):
    def operation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        offset = MAGNITUDE / 10 * _SHIFT * (1 if rng.random() < 0.5 else -1)
        matrix = (1, 0, 0 if axis else offset, 0, 1, offset if axis else 0)
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_GRAY)

    return operation


_OPERATIONS = (
    lambda image, rng: image,
    lambda image, rng: ImageOps.autocontrast(image),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    lambda image, rng: ImageOps.equalize(image),
    _moved(randaugment.shear_x),
    _moved(randaugment.shear_y),
    _shifted(0),
    _shifted(1),
    _moved(randaugment.rotate),
)
