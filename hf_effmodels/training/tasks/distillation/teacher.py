"""Frozen classifiers that are shown the student's pictures as they are used to see them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification
from transformers.image_processing_base import ImageProcessingMixin

from ....hub.ids import reading
from ....hub.whole import load_whole
from ...data.classes import model_classes
from ...data.images import check_processor
from ...data.processors import load_image_processor
from ...losses.interface import LOGITS, FeatureSpec
from .taps import DryRun, Taps, attach, collecting, dry_run

#: What is said where there is no teacher.
UNTRAINED = "The teacher is trained first (docs/how-to/distil.md)."


class Teacher:
    """A classifier's logits and features for pictures that are normalised for another one. Not a module: it is neither
    trained nor saved, nor wrapped by whatever spreads the student over processes.

    Args:
        model: a classifier of transformers.
        processor: the image processor it was trained with; None where it is the student's.
        student_processor: the one that the pictures come from; None with `processor`.
        classes: number of the teacher's class for each class of the student.
        compiled: run it by torch.compile.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: ImageProcessingMixin | None,
        student_processor: ImageProcessingMixin | None,
        classes: Sequence[int],
        *,
        compiled: bool = False,
    ):
        self.model = model.eval().requires_grad_(False)
        self.classes = torch.tensor(list(classes))
        self._in_order = self.classes.tolist() == [*range(getattr(model.config, "num_labels", -1))]
        self.channels, self.factor, self.shift = getattr(model.config, "num_channels", 3), None, None
        self.size = None if processor is None else _input_size(processor)
        if processor is not None:
            theirs, ours = _normalization(student_processor), _normalization(processor)
            self.channels = len(ours[0])
            # x = (v - m_s) / s_s is to become (v - m_t) / s_t.
            self.factor = theirs[1] / ours[1]
            self.shift = (theirs[0] - ours[0]) / ours[1]
        self.taps: Taps | None = None
        self._run = torch.compile(self._forward) if compiled else self._forward

    @torch.no_grad()
    def see(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The student's input (batch, channels, height, width) as this network takes it."""
        device = pixel_values.device
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        if self.factor is not None:
            factor, shift = (v.to(device, pixel_values.dtype)[:, None, None] for v in (self.factor, self.shift))
            pixel_values = pixel_values * factor + shift
            if pixel_values.shape[-2:] != self.size:
                pixel_values = F.interpolate(pixel_values, self.size, mode="bilinear", align_corners=False)
        return pixel_values.to(next(self.model.parameters()).dtype)

    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, classes of the student) for the student's input (batch, channels, height, width)."""
        return self(pixel_values)[LOGITS]

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The features that were asked for, and `logits` in the order of the student's classes."""
        pixels = self.see(pixel_values)
        if self.model.training:  # somebody may have trained it in between
            self.model.eval()
        features = self._run(pixels)
        logits = features[LOGITS]
        features[LOGITS] = logits if self._in_order else logits[:, self.classes.to(logits.device)]
        return features

    def _forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.taps is None or not self.taps.sources:
            return {LOGITS: self.model(pixel_values=pixels).logits}
        with collecting() as features:
            logits = self.model(pixel_values=pixels).logits
        return {**features, LOGITS: logits}

    def try_out(self, pixel_values: torch.Tensor) -> DryRun:
        """A dry run with the student's input."""
        return dry_run(self.model, self.see(pixel_values))

    def tap(self, run: DryRun, names: Iterable[str], stages: Sequence[str] | None, argument: str) -> None:
        """From now on hand out these features, too; see `Taps`."""
        self.taps = Taps(self.model, run, names, stages, argument)
        attach(self.model, self.taps)

    @property
    def specs(self) -> Mapping[str, FeatureSpec]:
        return self.taps.specs if self.taps else {}


class Teachers:
    """Several teachers as one: their probabilities are averaged, and the logarithm of that stands for logits. Features
    are those of the first.

    Args:
        teachers: one or several.
        weights: as many, positive; only their proportions matter.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float] | None = None):
        self.teachers = list(teachers)
        weights = [1.0] * len(self.teachers) if weights is None else list(weights)
        if len(weights) != len(self.teachers) or not self.teachers or not all(0 < w < float("inf") for w in weights):
            raise ValueError(f"weights of the teachers: got {weights}, accepted is a positive number for each.")
        self.weights = [weight / sum(weights) for weight in weights]

    @property
    def first(self) -> Teacher:
        return self.teachers[0]

    def __call__(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.first(pixel_values)
        if len(self.teachers) > 1:
            scores = [features[LOGITS], *(teacher.logits(pixel_values) for teacher in self.teachers[1:])]
            scores = torch.stack([score.float().log_softmax(1) for score in scores])
            weights = torch.tensor(self.weights, device=scores.device).log()[:, None, None]
            features[LOGITS] = (scores + weights).logsumexp(0)
        return features

    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, classes)."""
        return self(pixel_values)[LOGITS]


def load_teacher(
    name: str,
    student: nn.Module,
    student_processor: ImageProcessingMixin,
    *,
    revision: str | None = None,
    compiled: bool = False,
    dtype: str = "auto",
    **source,
) -> Teacher:
    """The teacher of `--teacher`.

    Raises:
        ValueError: its classes are not the student's, or it takes pictures of other channels.
        OSError: it cannot be found or reached.
    """
    said = ("--teacher_revision", revision)
    model = load_whole(
        AutoModelForImageClassification, "--teacher", name, revision=said, hint=UNTRAINED, dtype=dtype, **source
    )
    with reading("--teacher", name, revision=said, hint=UNTRAINED):
        processor = load_image_processor(name, model.config, revision=revision, **source)
    return make_teacher(model, processor, student, student_processor, name=name, compiled=compiled)


def make_teacher(
    model: nn.Module,
    processor: ImageProcessingMixin | None,
    student: nn.Module,
    student_processor: ImageProcessingMixin | None,
    *,
    name: str | None = None,
    compiled: bool = False,
) -> Teacher:
    """A classifier as the teacher of another one, whose classes it must have.

    Args:
        processor, student_processor: see `Teacher`.
        name: for messages.

    Raises:
        ValueError: classes or channels differ, or a processor does what training does not repeat.
    """
    name = name or type(model).__name__
    if processor is not None:
        check_processor("--teacher", processor)
        if student_processor is None:
            raise ValueError(
                "teacher: it comes with an image processor, but the student's, by which the pictures are normalised, "
                "is missing; give processing_class."
            )
    teacher = Teacher(
        model, processor, student_processor, same_classes(student.config, model.config, name), compiled=compiled
    )
    channels = getattr(student.config, "num_channels", 3)
    if teacher.channels != channels:
        raise ValueError(f"--teacher: {name} takes {teacher.channels} channels, the student {channels}.")
    return teacher


def same_classes(student, teacher, name: str) -> list[int]:
    """Number of the teacher's class for each of the student's, by two configurations: by their names, or by position
    where one of them has none. The teacher may know more classes by their names."""
    names, own = ([config.id2label[number] for number in range(config.num_labels)] for config in (student, teacher))
    if len(names) != len(own) and not set(names) < set(own):
        raise ValueError(f"--teacher: {name} has {len(own)} classes, the student has {len(names)}.")
    try:
        return list(model_classes(names, own))
    except ValueError:
        raise ValueError(
            f"--teacher: the classes of {name} ({', '.join(own[:10])}) are not the student's "
            f"({', '.join(names[:10])})."
        ) from None


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
    picture = np.zeros((64, 64, len(processor.image_mean or [0.0] * 3)), dtype=np.uint8)
    return processor(picture, return_tensors="pt", input_data_format="channels_last")["pixel_values"].shape[-2:]
