"""A frozen classifier that is shown the student's pictures as it is used to see them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.image_processing_base import ImageProcessingMixin

from ...data.classes import model_classes
from ...data.images import check_processor


class Teacher:
    """Logits of a classifier for pictures that are normalised for another one. Not a module: it is neither trained nor
    saved, nor wrapped by whatever spreads the student over processes.

    Args:
        model: a classifier of transformers.
        processor: the image processor it was trained with.
        student_processor: the one that the pictures come from.
        classes: number of the teacher's class for each class of the student.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: ImageProcessingMixin,
        student_processor: ImageProcessingMixin,
        classes: Sequence[int],
    ):
        self.model = model.eval().requires_grad_(False)
        self.classes = torch.tensor(classes)
        self.size = _input_size(processor)
        theirs, ours = _normalization(student_processor), _normalization(processor)
        self.channels = len(ours[0])
        # x = (v - m_s) / s_s is to become (v - m_t) / s_t.
        self.factor = theirs[1] / ours[1]
        self.shift = (theirs[0] - ours[0]) / ours[1]

    @torch.no_grad()
    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, classes of the student) for the student's input (batch, channels, height, width)."""
        device = pixel_values.device
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        factor, shift = (v.to(device, pixel_values.dtype)[:, None, None] for v in (self.factor, self.shift))
        pixels = pixel_values * factor + shift
        if pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bilinear", align_corners=False)
        logits = self.model(pixel_values=pixels.to(next(self.model.parameters()).dtype)).logits
        return logits[:, self.classes.to(device)]


def load_teacher(
    name: str, student: nn.Module, student_processor: ImageProcessingMixin, *, revision: str | None, **source
) -> Teacher:
    """The teacher of `--teacher`.

    Raises:
        ValueError: its classes are not the student's, or it takes pictures of other channels.
        OSError: it cannot be found or reached.
    """
    if not Path(name).exists() and (name.count("/") != 1 or Path(name).parent.exists()):
        raise OSError(f"--teacher: there is no folder {name!r}. The teacher is trained first (docs/how-to/distil.md).")
    try:
        model = AutoModelForImageClassification.from_pretrained(name, revision=revision, **source)
        processor = AutoImageProcessor.from_pretrained(name, revision=revision, **source)
    except OSError as error:
        raise OSError(f"--teacher: {name!r} cannot be found or reached. {error}") from error
    check_processor("--teacher", processor)
    names, own = (
        [config.id2label[number] for number in range(config.num_labels)] for config in (student.config, model.config)
    )
    if len(names) != len(own):
        raise ValueError(f"--teacher: {name} has {len(own)} classes, the student has {len(names)}.")
    try:
        classes = model_classes(names, own)
    except ValueError:
        raise ValueError(
            f"--teacher: the classes of {name} ({', '.join(own[:10])}) are not the student's "
            f"({', '.join(names[:10])})."
        ) from None
    teacher = Teacher(model, processor, student_processor, classes)
    channels = getattr(student.config, "num_channels", 3)
    if teacher.channels != channels:
        raise ValueError(f"--teacher: {name} takes {teacher.channels} channels, the student {channels}.")
    return teacher


def _normalization(processor: ImageProcessingMixin) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation per channel of values from 0 to 1."""
    mean, std = torch.tensor(processor.image_mean or [0.0] * 3), torch.tensor(processor.image_std or [1.0] * 3)
    if not processor.do_normalize:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    # (r v - m) / s of the 8-bit value v is (v / 255 - m') / s' with m' = m / (255 r) and s' = s / (255 r).
    factor = 255 * processor.rescale_factor if processor.do_rescale else 255
    return mean / factor, std / factor


def _input_size(processor: ImageProcessingMixin) -> torch.Size:
    """Height and width of what the processor makes of a picture."""
    picture = Image.new("RGB", (64, 64))
    return processor(picture, return_tensors="pt")["pixel_values"].shape[-2:]
