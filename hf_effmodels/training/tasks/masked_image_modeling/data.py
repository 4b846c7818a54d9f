"""Images and what decides how they are masked."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from ...data.augment import random_resized_box
from ...data.normalization import INTERPOLATIONS, Normalization
from ...data.pictures import Pictures
from ...data.seeded import SeededDataset
from .arguments import CropArguments
from .stages import Stages

#: Of the masks that are evaluated with.
_EVALUATION = 7


class MaskedImages(SeededDataset):
    """Samples `{"pixel_values": (channels, size, size), "noise": (blocks,) numbers from 0 to 1}`.

    With a seed part, mirroring and noise are drawn for every epoch anew; without, an image is the largest square in
    the middle, and its noise depends on its number alone.

    Args:
        source: the images.
        normalization: of the model's image processor.
        options: which parts are drawn.
        num_channels: of the model.
        stages: which size each epoch has.
        count_blocks: height and width -> numbers that the noise of an image has.
    """

    def __init__(
        self,
        source: Pictures,
        normalization: Normalization,
        options: CropArguments,
        num_channels: int,
        stages: Stages,
        count_blocks: Callable[[int, int], int],
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.source, self.normalization, self.options = source, normalization, options
        self.num_channels, self.stages = num_channels, stages
        self.blocks = {size: count_blocks(size, size) for size in stages.sizes}

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        return self.sample_of_epoch(0, index, rng)

    def sample_of_epoch(self, epoch: int, index: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        image, size = self.source.read(index, self.num_channels), self.stages.size(epoch)
        options, is_training = self.options, rng is not None
        if is_training:
            box = random_resized_box(*image.size, options.crop_scale, options.crop_ratio, rng)
        else:
            rng = np.random.default_rng((_EVALUATION, index))
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            box = (left, top, left + side, top + side)
        image = image.resize((size, size), INTERPOLATIONS[options.interpolation], box=box)
        if is_training and rng.random() < options.horizontal_flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        noise = rng.random(self.blocks[size], dtype=np.float32)
        return {"pixel_values": self.normalization(image), "noise": torch.from_numpy(noise)}


class Collator:
    """Stacks samples; where a batch has one mask, its noise is that of the first sample.

    Args:
        one_mask: whether it has.
    """

    def __init__(self, one_mask: bool):
        self.one_mask = one_mask

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        noise = samples[0]["noise"] if self.one_mask else torch.stack([sample["noise"] for sample in samples])
        return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), "noise": noise}
