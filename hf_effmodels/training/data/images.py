"""Pictures of a data set: read by the one image reader, named where they cannot be, and checked before training."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image

from ...images import DEEP_MODES, MODES, image_name, in_channels, open_image, read_image
from .arguments import SplitArguments

logger = logging.getLogger(__name__)

#: When all images are checked: threads, images they are given at a time, and bad ones that a message names.
_THREADS, _AT_A_TIME, _SHOWN = 8, 4096, 5


@dataclass
class ImageSplitArguments(SplitArguments):
    """`SplitArguments`, how many of the samples to use, and what becomes of images that cannot be read."""

    max_train_samples: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "Use that many, evenly spread."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "Use that many, evenly spread."}
    )
    check_images: bool = field(
        default=False,
        metadata={
            "help": "Read all images that are going to be used before anything starts, and name those that cannot be. "
            "Otherwise the first one that is met ends the run."
        },
    )
    skip_bad_images: bool = field(
        default=False,
        metadata={"help": "As check_images, but leave them out and say how many there are, instead of ending."},
    )


def where(row: int, split: str, value=None) -> str:
    """A picture's place for messages: its row, the split, and its file where it has one."""
    name = image_name(value)
    return f"row {row} of {split}" + (f" ({name})" if name else "")


def read_for_stock_processor(value, num_channels: int) -> Image.Image:
    """`read_image` for a model that is going to be served with a stock image processor; warns, once, of what that
    would read differently."""
    image = open_image(value)
    if image.mode in DEEP_MODES:
        _warn_of_deep_images()
    return in_channels(image, num_channels)


@cache
def _warn_of_deep_images() -> None:
    logger.warning(
        "there are 16-bit images. Training and evaluation scale them to 8 bits; a stock image processor and "
        "transformers' pipelines clip them to white: give those hf_effmodels.images.read_image(file)."
    )


def check_processor(argument: str, processor) -> None:
    """ValueError where an image processor does what training does not repeat: another order of the channels, or a
    second rescaling. Training would then show other pictures than the pipeline does."""
    if getattr(processor, "do_flip_channel_order", False):
        raise ValueError(f"{argument}: its image processor swaps red and blue (do_flip_channel_order); not supported.")
    if getattr(processor, "rescale_offset", False) or getattr(processor, "include_top", False):
        raise ValueError(
            f"{argument}: its image processor rescales in a way of its own (rescale_offset, include_top); "
            "not supported."
        )


def usable(source, use: Callable[[int], object], args: ImageSplitArguments):
    """The samples that can be used, as `--check_images` and `--skip_bad_images` ask; all of them, without a look, if
    neither is on. Several processes share the work and get the same.

    Args:
        source: has a length, `split` for messages, and `select(list of numbers)`.
        use: reads sample number i; raises a ValueError or OSError that names it.

    Raises:
        ValueError: with `--check_images`: there are some that cannot be used. With `--skip_bad_images`: none can.
    """
    if not args.check_images and not args.skip_bad_images:
        return source
    bad = _unusable(use, len(source))
    if not bad:
        logger.info("all %d images of %s can be read", len(source), source.split)
        return source
    shown = "; ".join([*list(bad.values())[:_SHOWN], *(["..."] if len(bad) > _SHOWN else [])])
    found = f"{len(bad)} of the {len(source)} samples of {source.split} cannot be used: {shown}"
    if not args.skip_bad_images:
        raise ValueError(f"--check_images: {found}. --skip_bad_images true leaves them out.")
    if len(bad) == len(source):
        raise ValueError(f"--skip_bad_images: {found}.")
    logger.warning("%s. They are left out.", found)
    return source.select([number for number in range(len(source)) if number not in bad])


def _unusable(use: Callable[[int], object], count: int) -> dict[int, str]:
    """Number of each sample that cannot be used -> why, in order."""

    def problem(number: int) -> tuple[int, str] | None:
        try:
            use(number)
        except (ValueError, OSError) as error:
            return number, str(error)
        return None

    state, found = PartialState(), []
    own = range(state.process_index, count, state.num_processes)
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(own), _AT_A_TIME):  # the pool takes in all it is given at once
            found += filter(None, threads.map(problem, own[start : start + _AT_A_TIME]))
    return dict(sorted(gather_object(found) if state.num_processes > 1 else found))


__all__ = [
    "MODES",
    "ImageSplitArguments",
    "image_name",
    "open_image",
    "read_for_stock_processor",
    "read_image",
    "usable",
    "where",
]
