"""From a picture to the model's input tensor, for training (random) and evaluation (the model's image processor).

Random numbers come from the generator that is handed in, never from global state, so a picture's augmentation depends
on nothing but that generator. Everything pickles, for data loader workers of either start method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance
from transformers.image_processing_base import ImageProcessingMixin

from ...data.augment import erase, random_resized_box
from ...data.autoaugment import AutoAugment
from ...data.images import MODES
from ...data.normalization import INTERPOLATIONS, Normalization
from ...data.randaugment import RandAugment
from ...run.values import SET, check_fields

#: Principal components of the RGB values (0 to 1) of ImageNet's pixels: their deviations, and a column for each.
_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


_RESIZED = {"train_crop": ("random_resized",)}


@dataclass
class AugmentationArguments:
    """How training images are varied."""

    train_crop: Literal["random_resized", "random_padded", "none"] = field(
        default="random_resized",
        metadata={
            "help": "random_resized: a random part, resized. random_padded: as in evaluation, then moved by up to "
            "crop_padding. none: as in evaluation."
        },
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.08, 1.0],
        metadata={
            "goes_with": _RESIZED,
            "accepts": "(0, 1]",
            "help": "random_resized: smallest and largest share of the image's area.",
        },
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3],
        metadata={
            "goes_with": _RESIZED,
            "accepts": "(0, inf)",
            "help": "random_resized: smallest and largest width / height of the part.",
        },
    )
    crop_padding: int = field(
        default=4,
        metadata={
            "goes_with": {"train_crop": ("random_padded",)},
            "accepts": "[0, 65536]",
            "help": "random_padded: largest shift in pixels; black comes in.",
        },
    )
    interpolation: list[str] = field(
        default_factory=lambda: ["bilinear", "bicubic"],
        metadata={
            "goes_with": _RESIZED,
            "help": "random_resized: filters; of several one is drawn per image.",
            "choices": [*INTERPOLATIONS],
        },
    )
    horizontal_flip: float = field(
        default=0.5, metadata={"accepts": "[0, 1]", "help": "Probability of mirroring left and right."}
    )
    color_jitter: list[float] | None = field(
        default=None,
        metadata={
            "accepts": "[0, inf)",
            "help": "Largest relative change of brightness, contrast and saturation: one number for all, or three.",
        },
    )
    lighting: float = field(
        default=0.0,
        metadata={
            "accepts": "[0, inf)",
            "help": "Deviation of AlexNet's changes of colour along the principal components of ImageNet's pixels.",
        },
    )
    randaugment: str | None = field(
        default=None, metadata={"help": "RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1."}
    )
    autoaugment: str | None = field(
        default=None,
        metadata={"help": "AutoAugment's policy for ImageNet in timm's notation: original, or original-mstd0.5."},
    )
    random_erasing: float = field(
        default=0.0, metadata={"accepts": "[0, 1]", "help": "Probability of erasing a random rectangle."}
    )
    random_erasing_mode: Literal["pixel", "const"] = field(
        default="pixel",
        metadata={
            "goes_with": {"random_erasing": SET},
            "help": "What the rectangle is filled with: normal noise per pixel, or zeros (the mean colour).",
        },
    )
    random_erasing_count: int = field(
        default=1,
        metadata={
            "goes_with": {"random_erasing": SET},
            "accepts": "[1, 1000]",
            "help": "Largest number of rectangles.",
        },
    )

    def __post_init__(self):
        check_fields(self)
        for name in ("crop_scale", "crop_ratio"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise ValueError(f"--{name}: got {values}, accepted are two positive numbers in order.")
        if self.randaugment and self.autoaugment:
            raise ValueError("--autoaugment and --randaugment exclude each other.")
        if self.color_jitter is not None and len(self.color_jitter) not in (1, 3):
            raise ValueError(f"--color_jitter: got {self.color_jitter}, accepted are one or three numbers from 0.")


@dataclass(frozen=True)
class EvaluationTransform:
    """The model's own image processor, fed with what `read_image` gives."""

    processor: ImageProcessingMixin

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> torch.Tensor:
        """The model's input (channels, height, width)."""
        return self._process(image)

    def resize_and_crop(self, image: Image.Image) -> Image.Image:
        """Only the geometry: still an 8-bit image."""
        pixels = np.asarray(self._process(image, do_rescale=False, do_normalize=False))
        pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))

    def _process(self, image: Image.Image, **options):
        if image.mode != "RGB":
            pixels = np.asarray(image)
            options["input_data_format"] = "channels_last"
            image = pixels[..., None] if pixels.ndim == 2 else pixels
        return self.processor(image, return_tensors="pt", **options)["pixel_values"][0]


class TrainingTransform:
    """Crop, flip, RandAugment or AutoAugment, colour jitter, normalisation, lighting and random erasing, in order.

    Args:
        evaluation: gives the size, and the geometry where `options` ask for it.
        normalization: as in evaluation.
        options: how much of each.
    """

    def __init__(self, evaluation: EvaluationTransform, normalization: Normalization, options: AugmentationArguments):
        channels = len(normalization.scale)
        if channels not in (1, 3) and (options.randaugment or options.autoaugment or options.color_jitter):
            raise ValueError(
                "--randaugment, --autoaugment and --color_jitter take images of 1 or 3 channels, the model has "
                f"{channels}."
            )
        mode = MODES[channels]
        if channels != 3 and options.lighting:
            raise ValueError(f"--lighting takes images of 3 channels, the model has {channels}.")
        self.size = evaluation.resize_and_crop(Image.new(mode, (64, 64))).size
        self.evaluation = evaluation
        self.normalization = normalization
        self.options = options
        self.randaugment = options.randaugment and RandAugment.from_string(
            options.randaugment, normalization.mean_color()
        )
        self.autoaugment = options.autoaugment and AutoAugment.from_string(
            options.autoaugment, normalization.mean_color()
        )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> torch.Tensor:
        """The model's input (channels, height, width)."""
        return self.with_box(image, rng)[0]

    def with_box(self, image: Image.Image, rng: np.random.Generator) -> tuple[torch.Tensor, tuple[float, ...]]:
        """The same, and the part of the picture that it shows, as shares of its size: (top, left, bottom, right).

        Of `random_resized` crops; others count as the whole picture.
        """
        options, shown = self.options, (0.0, 0.0, 1.0, 1.0)
        if options.train_crop == "random_resized":
            box = random_resized_box(*image.size, options.crop_scale, options.crop_ratio, rng)
            left, top, right, bottom = box
            shown = top / image.height, left / image.width, bottom / image.height, right / image.width
            resample = INTERPOLATIONS[options.interpolation[rng.integers(len(options.interpolation))]]
            image = image.resize(self.size, resample, box=box)
        else:
            image = self.evaluation.resize_and_crop(image)
        if options.train_crop == "random_padded":
            image = shift(image, options.crop_padding, rng)
        if rng.random() < options.horizontal_flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.randaugment:
            image = self.randaugment(image, rng)
        if self.autoaugment:
            image = self.autoaugment(image, rng)
        if options.color_jitter:
            image = color_jitter(image, options.color_jitter, rng)
        pixels = self.normalization(image)
        if options.lighting:
            light(pixels, options.lighting, self.normalization.scale, rng)
        if rng.random() < options.random_erasing:
            erase(pixels, options.random_erasing_count, options.random_erasing_mode, rng)
        return pixels, shown


def shift(image: Image.Image, distance: int, rng: np.random.Generator) -> Image.Image:
    """The image moved by up to `distance` pixels each way; black comes in."""
    left, top = (int(rng.integers(-distance, distance + 1)) for _ in range(2))
    return image.crop((left, top, left + image.size[0], top + image.size[1]))


def color_jitter(image: Image.Image, strength: Sequence[float], rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast and saturation, in random order, by factors uniform in [1 - strength, 1 + strength]
    (not below 0)."""
    strengths = list(strength) * (3 // len(strength))
    for index in rng.permutation(3):
        factor = rng.uniform(max(0.0, 1.0 - strengths[index]), 1.0 + strengths[index])
        image = _ENHANCERS[index](image).enhance(factor)
    return image


def light(pixels: torch.Tensor, deviation: float, scale: Sequence[float], rng: np.random.Generator) -> None:
    """Add a colour to a normalised image (3, height, width), in place: each principal component of ImageNet's colours
    by its own deviation times a number of normal distribution (AlexNet, section 4.1).

    Args:
        deviation: of these numbers; published: 0.1.
        scale: what a step of an 8-bit value is in the image, per channel.
    """
    color = _COMPONENTS @ (_DEVIATIONS * rng.normal(0.0, deviation, 3))
    pixels += torch.from_numpy(255 * color * np.asarray(scale)).to(pixels.dtype)[:, None, None]
