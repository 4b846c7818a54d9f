"""Pictures of several shapes: which image processors keep them, and what goes into one tensor."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image

#: (height, width) of pictures of which a processor that keeps shapes makes different ones.
_SHAPES = ((48, 96), (96, 48))


def in_runs(pictures: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Batches of neighbours of one shape, in order: all in one where an image processor crops."""
    for _, run in groupby(pictures, key=lambda picture: picture.shape):
        yield torch.stack(list(run))


def processed(processor: Any, images: Sequence) -> list[tuple[Sequence, Any]]:
    """Images with what their processor makes of them: all in one batch, or one by one where it keeps their shapes and
    fills nothing up."""
    try:
        return [(images, processor(images=list(images), return_tensors="pt"))]
    except (ValueError, RuntimeError):  # libraries' own words for tensors of several shapes
        if len(images) == 1:
            raise
        return [pair for image in images for pair in processed(processor, [image])]


def size_of_all(processor: Any, num_channels: int, takes_mask: bool = False) -> tuple[int, int] | None:
    """(height, width) of every picture that an image processor makes; None where it keeps their shapes.

    Args:
        takes_mask: the model is told by a mask what has been filled up: that counts as a shape of its own.
    """
    sizes = set()
    for shape in _SHAPES:
        made = _made(processor, shape, num_channels)
        if takes_mask and "pixel_mask" in made and not made["pixel_mask"].all():
            return None
        sizes.add(tuple(made["pixel_values"].shape[-2:]))
    return sizes.pop() if len(sizes) == 1 else None


def _made(processor: Any, shape: tuple[int, int], num_channels: int) -> Any:
    """What an image processor makes of a black picture of (height, width)."""
    if num_channels == 3:  # timm's takes no options
        return processor(Image.new("RGB", shape[::-1]), return_tensors="pt")
    picture = np.zeros((*shape, num_channels), dtype=np.uint8)
    options = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_last"}
    return processor(picture, return_tensors="pt", **options)
