"""Training images with their maps: augmentation that is a function of seed, epoch and index."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from ...data.seeded import SeededDataset
from .arguments import SegmentationAugmentationArguments
from .data import IGNORED, SegmentationImages

#: How often a crop is drawn that one class fills.
_TRIALS = 10


class SegmentationDataset(SeededDataset):
    """Samples {"image": (height, width, 3) of bytes, "labels": (height, width) of bytes, "index"}.

    Args:
        source: the images.
        augmentation: of training images; None for images as they are.
        side: of the square that training images are cropped to, in pixels.
        seed: of the random numbers; None without.
    """

    def __init__(
        self,
        source: SegmentationImages,
        augmentation: SegmentationAugmentationArguments | None = None,
        side: int = 512,
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.source, self.augmentation, self.side = source, augmentation, side

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict:
        image, labels = self.source.read(index)
        if rng is None or self.augmentation is None:
            return {"image": image, "labels": labels, "index": index}
        options = self.augmentation
        image, labels = rescaled(image, labels, self.side * rng.uniform(*options.scale_range))
        image, labels = cropped(image, labels, self.side, options.max_class_share, rng)
        if rng.random() < options.horizontal_flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        changes = rng.uniform(-1, 1, 3) * [options.brightness, options.contrast, options.saturation]
        image = recoloured(image, *changes)
        return {"image": image, "labels": labels, "index": index}


def rescaled(image: np.ndarray, labels: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Image and map whose shorter side has `side` pixels, rounded: bilinear, and the nearest class."""
    height, width = labels.shape
    factor = side / min(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        return image, labels
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return image, np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def cropped(
    image: np.ndarray, labels: np.ndarray, side: int, max_class_share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random square, drawn again while one class fills more than `max_class_share` of what is labelled in it. What
    an image is too small for is filled up on the right and at the bottom: grey, without a class."""
    height, width = labels.shape
    for _ in range(_TRIALS):
        top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in (height, width))
        part = labels[top : top + side, left : left + side]
        counts = np.bincount(part[part != IGNORED], minlength=1)
        if max_class_share >= 1 or counts.max() <= max_class_share * counts.sum():
            break
    image = image[top : top + side, left : left + side]
    missing = [(0, side - length) for length in part.shape]
    if any(after for _, after in missing):
        image = np.pad(image, [*missing, (0, 0)], constant_values=124)
        part = np.pad(part, missing, constant_values=IGNORED)
    return image, part


def recoloured(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brighter by a share of the full range, contrast and saturation changed by shares of what they are."""
    if not (brightness or contrast or saturation):
        return image
    values = image.astype(np.float32) + 255 * brightness
    values = values.mean() + (values - values.mean()) * (1 + contrast)
    grey = values.mean(axis=2, keepdims=True)
    return (grey + (values - grey) * (1 + saturation)).round().clip(0, 255).astype(np.uint8)


class SegmentationCollator:
    """A training batch: images normalised as the image processor does, all of one size, and their maps."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        images = np.stack([sample["image"] for sample in samples])
        labels = np.stack([sample["labels"] for sample in samples])
        return {
            "pixel_values": normalised(images, self.processor),
            "labels": torch.from_numpy(np.ascontiguousarray(labels)).long(),
        }


def normalised(images: np.ndarray, processor) -> torch.Tensor:
    """(batch, height, width, 3) of bytes -> (batch, 3, height, width), rescaled and normalised as `processor` does."""
    pixels = torch.from_numpy(np.require(images, requirements=("C", "W"))).permute(0, 3, 1, 2).float()
    if processor.do_rescale:
        pixels = pixels * processor.rescale_factor
    if processor.do_normalize:
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
        pixels = (pixels - mean) / deviation
    return pixels
