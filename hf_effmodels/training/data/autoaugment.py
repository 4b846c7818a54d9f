"""AutoAugment's policy for ImageNet (https://arxiv.org/abs/1805.09501, table 9), with the strengths and the noise of
timm's `original`."""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .randaugment import OPERATIONS, keep_bits

#: Names of `OPERATIONS` in their order; bits are kept as the paper has it, 4 to 8 of them.
_NAMES = ("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast")
_NAMES += ("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY")
#: Pairs of operations: name, probability and magnitude of each.
POLICY = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)


@dataclass(frozen=True)
class AutoAugment:
    """One of the pairs of `POLICY` for each image, each of its operations with its probability.

    Attributes:
        magnitude_std: standard deviation of the normal noise added to each magnitude; the sum is clipped to [0, 10].
        fill: colour of the pixels that come in from outside, one 8-bit value per channel.
    """

    magnitude_std: float = 0.0
    fill: tuple[int, ...] = (128, 128, 128)

    @classmethod
    def from_string(cls, text: str, fill: tuple[int, ...]) -> "AutoAugment":
        """Read `"original"`, or such as `"original-mstd0.5"`."""
        match = re.fullmatch(r"original(?:-mstd(\d+(?:\.\d+)?))?", text)
        if not match:
            raise ValueError(f"--autoaugment: got {text!r}, accepted are 'original' and such as 'original-mstd0.5'.")
        return cls(float(match[1] or 0), fill)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        fill = self.fill if len(self.fill) > 1 else self.fill[0]
        for name, probability, magnitude in POLICY[rng.integers(len(POLICY))]:
            if rng.random() >= probability:
                continue
            level = rng.normal(magnitude, self.magnitude_std) if self.magnitude_std > 0 else magnitude
            level = min(max(level, 0.0), 10.0)
            resample = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[rng.integers(2)]
            if name == "Posterize":
                image = keep_bits(image, 4 + int(level / 10 * 4))
            else:
                image = OPERATIONS[_NAMES.index(name)](image, level, rng, resample, fill)
        return image
