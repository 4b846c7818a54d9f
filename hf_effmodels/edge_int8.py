"""Pictures for exported programs: 8-bit integers are calibrated on some of them, programs checked on others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from .edge_pictures import FEWEST
from .images import image_name, read_image

#: Every fourth picture is kept for the check.
_HELD_OUT = 4
_BATCH = 8


@dataclass(frozen=True)
class Calibration:
    """Pictures as the model takes them, (1, channels, height, width) each.

    Attributes:
        calibrating: what the ranges of activations are measured on.
        checking: what the program is compared with PyTorch on.
    """

    calibrating: Sequence[torch.Tensor]
    checking: Sequence[torch.Tensor]

    @property
    def all(self) -> list[torch.Tensor]:
        return [*self.calibrating, *self.checking]


def prepare(pictures: Iterable, processor, num_channels: int, size: tuple[int, int]) -> Calibration:
    """Read and process pictures (whatever `read_image` takes); see `Calibration`.

    Raises:
        ValueError: too few, no processor, or one that makes them of another size. OSError: one that cannot be read.
    """
    from .training.tasks.image_classification.transforms import EvaluationTransform

    if processor is None:
        raise ValueError("processor: got None, but pictures to calibrate on are prepared by one.")
    transform = EvaluationTransform(processor)
    pixels = [transform(_read(picture, num_channels))[None] for picture in pictures]
    if len(pixels) < FEWEST:
        raise ValueError(f"calibration: got {len(pixels)} pictures, accepted are {FEWEST} or more.")
    if any(one.shape[-2:] != torch.Size(size) for one in pixels):
        raise ValueError(f"image_size: got {size}, but the processor makes pictures of {tuple(pixels[0].shape[-2:])}.")
    checking = pixels[_HELD_OUT - 1 :: _HELD_OUT]
    return Calibration([one for n, one in enumerate(pixels) if n % _HELD_OUT != _HELD_OUT - 1], checking)


def _read(picture, num_channels: int):
    try:
        return read_image(picture, num_channels)
    except (ValueError, OSError) as error:
        raise type(error)(f"calibration: {image_name(picture) or 'a picture'}: {error}") from error


def quantizer(calibration: Calibration):
    """What transformers' ONNX exporter takes: weights with a scale for each channel, activations as they were
    measured."""
    from transformers.exporters import OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig

    samples = [{"pixel_values": one} for one in calibration.calibrating]
    return OnnxRuntimeQuantizer(OnnxRuntimeStaticConfig(per_channel=True), calibration_dataset=samples)


@torch.no_grad()
def agreement(model, program, calibration: Calibration) -> float:
    """The share of the checking pictures that get the same likeliest class from a program as from PyTorch."""
    same = 0
    for start in range(0, len(calibration.checking), _BATCH):
        pixels = torch.cat(calibration.checking[start : start + _BATCH])
        expected = model(pixel_values=pixels.to(model.device, model.dtype)).logits.argmax(-1).cpu()
        same += int((program(pixel_values=pixels).logits.argmax(-1).cpu() == expected).sum())
    return same / len(calibration.checking)
