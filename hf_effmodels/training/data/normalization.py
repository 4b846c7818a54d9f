"""From an 8-bit image to the numbers a model takes, as its image processor does it."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import ImageProcessingMixin

INTERPOLATIONS = {name.lower(): Image.Resampling[name] for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS")}


@dataclass(frozen=True)
class Normalization:
    """`(value * rescale - mean) / std` per channel, as the image processor does it in evaluation."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def of(cls, processor: ImageProcessingMixin, num_channels: int) -> "Normalization":
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        if not processor.do_normalize:
            return cls((factor,) * num_channels, (0.0,) * num_channels)
        mean, std = processor.image_mean, processor.image_std
        return cls(
            tuple(factor / s for s in std),
            tuple(-m / s for m, s in zip(mean, std, strict=True)),
        )

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The image as a float tensor (channels, height, width)."""
        pixels = np.asarray(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        scale, shift = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (self.scale, self.shift))
        return torch.from_numpy(np.ascontiguousarray(pixels * scale + shift, dtype=np.float32))

    def mean_color(self) -> tuple[int, ...]:
        """The 8-bit colour that becomes zero."""
        values = (-shift / scale for scale, shift in zip(self.scale, self.shift, strict=True))
        return tuple(int(min(255, max(0, round(value)))) for value in values)


def with_channels(processor: ImageProcessingMixin, num_channels: int) -> ImageProcessingMixin:
    """The processor with a mean and a deviation for each channel: the average colour's where their number differs."""
    for name in ("image_mean", "image_std"):
        values = getattr(processor, name, None)
        if values is not None and len(values) != num_channels:
            setattr(processor, name, [sum(values) / len(values)] * num_channels)
    return processor
