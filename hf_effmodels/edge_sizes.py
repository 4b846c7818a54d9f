"""The one size that pictures have for a program, and the image processor that makes them so."""

import copy
import inspect
from typing import Any

import torch

from ._shapes import size_of_all
from .models import sized_processor


def of_one_size(
    model: torch.nn.Module, processor: Any, size: tuple[int, int] | None, num_channels: int
) -> tuple[tuple[int, int], Any]:
    """The size of the pictures of a model's program, and a processor that makes every picture of it.

    Args:
        size: (height, width) that is asked for; None for the processor's own.

    Raises:
        ValueError: there is none asked for, and the processor keeps the shapes of pictures, or fills them up with
            what the model is to be told of (DETR's mask), which its program is not; or it makes none of that size.
    """
    takes_mask = "pixel_mask" in inspect.signature(type(model).forward).parameters
    if size is None:
        size = size_of_all(processor, num_channels, takes_mask)
        if size is None:
            raise ValueError(
                f"image_size: none is given, but the image processor ({type(processor).__name__}) keeps the shapes of "
                "pictures, and a program takes them in one size; accepted is a side in pixels, and all are resized to "
                "its square."
            )
    else:
        processor = sized_processor(processor, size)
        if size_of_all(processor, num_channels, takes_mask) != size:
            processor.size = dict(zip(("height", "width"), size, strict=True))
            processor.do_resize = True
            if getattr(processor, "do_pad", None):
                processor.do_pad = False
        if (made := size_of_all(processor, num_channels, takes_mask)) != size:
            told = "keeps their shapes" if made is None else f"makes {'×'.join(map(str, made))} of it"
            raise ValueError(f"image_size: got {'×'.join(map(str, size))}, but its {type(processor).__name__} {told}.")
    if getattr(processor, "do_pad", None):
        plain = copy.deepcopy(processor)
        plain.do_pad = False
        if size_of_all(plain, num_channels) == size:  # nothing is filled up, and no mask need say so
            processor = plain
    return size, processor
