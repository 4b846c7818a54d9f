"""RandAugment (https://arxiv.org/abs/1909.13719) with the operations, strengths and noise of timm's strings."""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

#: An operation gets the image, the magnitude from 0 to 10, the generator, the resampling filter and the fill colour.
_STRONGEST = 10.0
#: From this standard deviation on the magnitude is drawn uniformly, as timm does.
_UNIFORM = 100.0
_SUFFIX = re.compile(r"(n|mstd|mmax|m|inc|p)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations drawn with replacement, each applied with probability `probability`.

    Attributes:
        magnitude: strength from 0 to 10; `magnitude_std` is the standard deviation of the normal noise added to it
            for each operation, and the sum is clipped to [0, `magnitude_max`].
        num_ops: operations per image.
        increasing: use the forms of posterize, solarize and the enhancers that grow with the magnitude.
        probability: of applying a drawn operation.
        fill: colour of the pixels that come in from outside, one 8-bit value per channel.
    """

    magnitude: float = 9.0
    num_ops: int = 2
    magnitude_std: float = 0.0
    magnitude_max: float = _STRONGEST
    increasing: bool = False
    probability: float = 0.5
    fill: tuple[int, ...] = (128, 128, 128)

    @classmethod
    def from_string(cls, text: str, fill: tuple[int, ...]) -> "RandAugment":
        """Read such as `"rand-m9-mstd0.5-inc1"`: m magnitude, n operations, mstd noise, mmax largest magnitude, inc 1
        for increasing strengths, p probability."""
        head, *suffixes = text.split("-")
        matches = [_SUFFIX.fullmatch(suffix) for suffix in suffixes]
        if head != "rand" or not all(matches):
            raise ValueError(
                f"--randaugment: got {text!r}, accepted is 'rand' with any of -m (magnitude), -n (operations), -mstd, "
                "-mmax, -inc, -p, such as 'rand-m9-mstd0.5-inc1'."
            )
        values = {match[1]: float(match[2]) for match in matches}
        magnitude, strongest = values.get("m", 10.0), values.get("mmax", _STRONGEST)
        if not magnitude <= strongest <= _STRONGEST or not 1 <= values.get("n", 2) <= 100:
            raise ValueError(f"--randaugment: {text!r} needs m up to mmax, mmax up to 10 and n from 1 to 100.")
        if values.get("p", 0.5) > 1:
            raise ValueError(f"--randaugment: {text!r} needs p up to 1.")
        return cls(
            magnitude=magnitude,
            num_ops=int(values.get("n", 2)),
            magnitude_std=values.get("mstd", 0.0),
            magnitude_max=strongest,
            increasing=bool(values.get("inc", 0)),
            probability=values.get("p", 0.5),
            fill=fill,
        )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        operations = INCREASING_OPERATIONS if self.increasing else OPERATIONS
        fill = self.fill if len(self.fill) > 1 else self.fill[0]
        for index in rng.integers(len(operations), size=self.num_ops):
            if self.probability < 1 and rng.random() >= self.probability:
                continue
            level = self.magnitude
            if self.magnitude_std > _UNIFORM:
                level = rng.uniform(0.0, self.magnitude)
            elif self.magnitude_std > 0:
                level = rng.normal(self.magnitude, self.magnitude_std)
            resample = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[rng.integers(2)]
            level = min(max(level, 0.0), self.magnitude_max)
            image = operations[index](image, level, rng, resample, fill)
        return image


def _either_sign(value: float, rng: np.random.Generator) -> float:
    return value if rng.random() < 0.5 else -value


def auto_contrast(image, level, rng, resample, fill):
    return ImageOps.autocontrast(image)


def equalize(image, level, rng, resample, fill):
    return ImageOps.equalize(image)


def invert(image, level, rng, resample, fill):
    return ImageOps.invert(image)


def rotate(image, level, rng, resample, fill):
    """By up to 30 degrees."""
    return image.rotate(_either_sign(level / _STRONGEST * 30, rng), resample=resample, fillcolor=fill)


def posterize(image, level, rng, resample, fill):
    """Keep 0 to 4 bits."""
    return keep_bits(image, int(level / _STRONGEST * 4))


def posterize_increasing(image, level, rng, resample, fill):
    """Keep 4 to 0 bits."""
    return keep_bits(image, 4 - int(level / _STRONGEST * 4))


def keep_bits(image: Image.Image, bits: int) -> Image.Image:
    """Of each value the first 0 to 8 bits."""
    # Newer versions of PIL's posterize refuse 0 bits, which the strongest magnitudes ask for.
    return image.point([value & ~(2 ** (8 - bits) - 1) for value in range(256)] * len(image.getbands()))


def solarize(image, level, rng, resample, fill):
    """Invert the values from a threshold of 0 to 256 on."""
    return ImageOps.solarize(image, min(256, int(level / _STRONGEST * 256)))


def solarize_increasing(image, level, rng, resample, fill):
    """Invert the values from a threshold of 256 to 0 on."""
    return ImageOps.solarize(image, 256 - min(256, int(level / _STRONGEST * 256)))


def solarize_add(image, level, rng, resample, fill):
    """Add up to 110 to the values below 128."""
    added = min(128, int(level / _STRONGEST * 110))
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _enhance(enhancer, increasing: bool):
    def operation(image, level, rng, resample, fill):
        if increasing:
            factor = max(0.1, 1.0 + _either_sign(level / _STRONGEST * 0.9, rng))
        else:
            factor = level / _STRONGEST * 1.8 + 0.1
        return enhancer(image).enhance(factor)

    return operation


def shear_x(image, level, rng, resample, fill):
    """By a factor of up to 0.3."""
    factor = _either_sign(level / _STRONGEST * 0.3, rng)
    return image.transform(image.size, Image.Transform.AFFINE, (1, factor, 0, 0, 1, 0), resample, fillcolor=fill)


def shear_y(image, level, rng, resample, fill):
    """By a factor of up to 0.3."""
    factor = _either_sign(level / _STRONGEST * 0.3, rng)
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, factor, 1, 0), resample, fillcolor=fill)


def translate_x(image, level, rng, resample, fill):
    """By up to 45 per cent of the width."""
    shift = _either_sign(level / _STRONGEST * 0.45, rng) * image.size[0]
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, shift, 0, 1, 0), resample, fillcolor=fill)


def translate_y(image, level, rng, resample, fill):
    """By up to 45 per cent of the height."""
    shift = _either_sign(level / _STRONGEST * 0.45, rng) * image.size[1]
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, shift), resample, fillcolor=fill)


_GEOMETRIC = (shear_x, shear_y, translate_x, translate_y)
_ENHANCERS = (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness)

OPERATIONS = (
    *(auto_contrast, equalize, invert, rotate, posterize, solarize, solarize_add),
    *(_enhance(enhancer, increasing=False) for enhancer in _ENHANCERS),
    *_GEOMETRIC,
)
INCREASING_OPERATIONS = (
    *(auto_contrast, equalize, invert, rotate, posterize_increasing, solarize_increasing, solarize_add),
    *(_enhance(enhancer, increasing=True) for enhancer in _ENHANCERS),
    *_GEOMETRIC,
)
