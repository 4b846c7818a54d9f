"""Augmentation that a number alone repeats, so that what a teacher said of a picture can be stored and used again.

TinyViT (https://arxiv.org/abs/2207.10666, section 3.1) runs the teacher once over every picture and epoch and keeps,
beside its largest probabilities, the seed that the picture was augmented with. All random numbers of one picture come
from one generator, in a fixed order: crop, flip, RandAugment, erasing. That order, and how whole numbers are drawn, is
the published code's: records written by it replay here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from .augment import cut_box
from .randaugment import INCREASING_OPERATIONS, OPERATIONS, RandAugment

_ATTEMPTS = 10
#: Erased rectangles are drawn in a picture of this side and scaled: the same seed erases the same part at every size.
_ERASING_FRAME = 224


class Draws:
    """One picture's random numbers: NumPy's PCG64 and the published code's way to whole numbers.

    Args:
        seed: from 0.
    """

    def __init__(self, seed: int):
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return self.generator.random()

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return self.random() * (high - low) + low

    def integer(self, low: int, high: int) -> int:
        """Uniform among the whole numbers from `low` to `high`, both included; takes one uniform number."""
        return min(int(self.random() * (high - low + 1)) + low, high)

    def normal(self, mean: float, std: float) -> float:
        return self.generator.normal(mean, std)

    def beta(self, a: float, b: float) -> float:
        return self.generator.beta(a, b)

    def choice(self, count: int, size: int) -> np.ndarray:
        """`size` numbers below `count`, with replacement."""
        return self.generator.choice(count, size, replace=True)


@dataclass(frozen=True)
class ReplayableAugmentation:
    """From a picture and a seed to the model's input, always the same.

    Attributes:
        size: height and width of the result.
        mean, std: of the normalisation, per channel, for values from 0 to 1.
        scale: smallest and largest share of the picture's area that is cut out.
        ratio: smallest and largest width / height of that part.
        horizontal_flip: probability of mirroring left and right.
        randaugment: in timm's notation; None for none. What comes in from outside has the mean colour.
        random_erasing: probability of filling a rectangle with normal noise.
        erasing_area: smallest and largest share of the area of that rectangle.
        erasing_ratio: smallest height / width of it; the largest is the inverse.
        resample: the filter.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    randaugment: str | None = "rand-m9-mstd0.5-inc1"
    random_erasing: float = 0.25
    erasing_area: tuple[float, float] = (0.02, 1 / 3)
    erasing_ratio: float = 0.3
    resample: int = Image.Resampling.BICUBIC
    _policy: RandAugment | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self):
        for name in ("scale", "ratio", "erasing_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}: got {(low, high)}, accepted are two positive numbers in order.")
        for name in ("horizontal_flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are probabilities from 0 to 1.")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std: got {self.std}, accepted are positive numbers.")
        if self.randaugment is not None:
            fill = tuple(min(255, round(255 * value)) for value in self.mean)
            object.__setattr__(self, "_policy", RandAugment.from_string(self.randaugment, fill))

    def __call__(self, image: Image.Image, seed: int | Draws) -> torch.Tensor:
        """The model's input, float32 (channels, height, width)."""
        draws = seed if isinstance(seed, Draws) else Draws(seed)
        image = image.convert("RGB")
        height, width = self.size
        top, left, rows, columns = self.crop(*image.size, draws)
        image = image.crop((left, top, left + columns, top + rows)).resize((width, height), self.resample)
        if draws.random() < self.horizontal_flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._policy is not None:
            image = self._augment(image, draws)
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
        pixels = (pixels - np.float32(self.mean)) / np.float32(self.std)
        pixels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        self._erase(pixels, draws)
        return pixels

    def crop(self, width: int, height: int, draws: Draws) -> tuple[int, int, int, int]:
        """The part that is cut out, (top, left, height, width): after ten that do not fit the centre, as large as
        `ratio` allows."""
        logs = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_ATTEMPTS):
            area = draws.uniform(*self.scale) * width * height
            aspect = math.exp(draws.uniform(*logs))
            columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < columns <= width and 0 < rows <= height:
                top = draws.integer(0, height - rows)
                return top, draws.integer(0, width - columns), rows, columns
        columns, rows = width, height
        if width / height < self.ratio[0]:
            rows = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            columns = round(height * self.ratio[1])
        return (height - rows) // 2, (width - columns) // 2, rows, columns

    def _augment(self, image: Image.Image, draws: Draws) -> Image.Image:
        policy = self._policy
        operations = INCREASING_OPERATIONS if policy.increasing else OPERATIONS
        for index in draws.choice(len(operations), policy.num_ops):
            if policy.probability < 1 and draws.random() > policy.probability:
                continue
            level = policy.magnitude
            if policy.magnitude_std > 0:
                level = draws.normal(policy.magnitude, policy.magnitude_std)
            level = min(max(level, 0.0), policy.magnitude_max)
            image = operations[index](image, level, draws, self.resample, policy.fill)
        return image

    def _erase(self, pixels: torch.Tensor, draws: Draws) -> None:
        if draws.random() > self.random_erasing:
            return
        channels, height, width = pixels.shape
        side = _ERASING_FRAME
        logs = math.log(self.erasing_ratio), math.log(1 / self.erasing_ratio)
        for _ in range(_ATTEMPTS):
            area = draws.uniform(*self.erasing_area) * side * side
            aspect = math.exp(draws.uniform(*logs))
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if rows < side and columns < side:
                break
        else:
            return
        top, left = draws.integer(0, side - rows), draws.integer(0, side - columns)
        top = min(round(top * height / side), height - 1)
        left = min(round(left * width / side), width - 1)
        rows = min(round(rows * height / side), height - top)
        columns = min(round(columns * width / side), width - left)
        # NumPy's Mersenne twister for the noise, seeded by one more number of this picture's.
        noise = np.random.Generator(np.random.MT19937(draws.integer(0, 1 << 30)))
        values = noise.normal(size=(channels, rows, columns))
        pixels[:, top : top + rows, left : left + columns] = torch.from_numpy(values).to(pixels.dtype)


def mix_pairs(
    pixels: torch.Tensor,
    seeds: Sequence[int],
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    switch_probability: float = 0.5,
    probability: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup or CutMix of neighbours, 0 with 1, 2 with 3 and so on, by a generator that their two seeds give.

    Args:
        pixels: (batch, channels, height, width), an even batch; stays as it is.
        seeds: of the batch's pictures; those of a pair are combined by exclusive or.
        mixup, cutmix: the alphas of the Beta distributions; 0 for none.
        switch_probability: of CutMix, where both are on.
        probability: of mixing a pair.

    Returns:
        The mixed pictures, and of each the share (batch,) that was drawn for it, before a rectangle is cut to the
        picture's borders.
    """
    if len(pixels) % 2 or len(pixels) != len(seeds):
        raise ValueError(f"mix_pairs: got {len(pixels)} pictures and {len(seeds)} seeds, accepted are as many, even.")
    if mixup == 0 and cutmix == 0:
        return pixels.clone(), torch.ones(len(pixels), dtype=pixels.dtype)
    mixed, shares = pixels.clone(), torch.ones(len(pixels), dtype=pixels.dtype)
    for first in range(0, len(pixels), 2):
        pair = slice(first, first + 2)
        draws = Draws(int(seeds[first]) ^ int(seeds[first + 1]))
        if draws.random() >= probability:
            continue
        cut = cutmix > 0 and (mixup == 0 or draws.random() < switch_probability)
        alpha = cutmix if cut else mixup
        share = draws.beta(alpha, alpha)
        shares[pair] = share
        swapped = pixels[pair].flip(0)
        if cut:
            top, bottom, left, right = cutmix_box(*pixels.shape[-2:], share, draws)
            mixed[pair, :, top:bottom, left:right] = swapped[..., top:bottom, left:right]
        else:
            mixed[pair] = pixels[pair] * share + swapped * (1 - share)
    return mixed, shares


def cutmix_box(height: int, width: int, share: float, draws: Draws) -> tuple[int, int, int, int]:
    """A rectangle (top, bottom, left, right) of 1 - `share` of the area, cut off at the borders."""
    y, x = draws.integer(0, height - 1), draws.integer(0, width - 1)
    return cut_box(height, width, share, y, x)
