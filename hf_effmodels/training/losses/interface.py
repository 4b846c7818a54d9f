"""What a loss of a distillation is: a module that says which features it needs, and is built for their shapes.

A new loss is a file in this folder with a subclass of `DistillationLoss` that has a `name`: recipes find it by that,
and `hf_effmodels.training.distillation` offers it. The mathematics is a pure function beside it where it can be.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import nn

#: Names of features that every network has: its logits (batch, classes), and what its classifier is given.
LOGITS, POOLED = "logits", "pooled"


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a network, as a dry run has found it.

    Attributes:
        shape: without the batch.
        layout: `maps` (channels, height, width), `maps_last` (height, width, channels), `tokens` (length, channels) or
            `vector` (channels,).
        prefix_tokens: of `tokens` those that stand for no place in the image (class and distillation tokens).
        path: the module it comes from.
    """

    shape: tuple[int, ...]
    layout: Literal["maps", "maps_last", "tokens", "vector"]
    prefix_tokens: int = 0
    path: str = ""

    @property
    def channels(self) -> int:
        return self.shape[0] if self.layout in ("maps", "vector") else self.shape[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width: of tokens, those of the square that they fill."""
        if self.layout == "maps":
            return self.shape[1], self.shape[2]
        if self.layout == "maps_last":
            return self.shape[0], self.shape[1]
        if self.layout == "vector":
            return 1, 1
        side = math.isqrt(self.shape[0] - self.prefix_tokens)
        return side, side


def as_maps(features: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """Features of any layout as maps (batch, channels, height, width); prefix tokens are left out.

    Raises:
        ValueError: tokens that fill no square.
    """
    if spec.layout == "maps":
        return features
    if spec.layout == "maps_last":
        return features.permute(0, 3, 1, 2)
    if spec.layout == "vector":
        return features[:, :, None, None]
    features = features[:, spec.prefix_tokens :]
    height, width = spec.grid
    if height * width != features.shape[1]:
        raise ValueError(f"{spec.path}: {features.shape[1]} tokens fill no square.")
    return features.transpose(1, 2).unflatten(2, (height, width))


def as_tokens(features: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """Features of any layout as tokens (batch, length, channels); those of a transformer keep their prefix tokens."""
    if spec.layout == "maps":
        return features.flatten(2).transpose(1, 2)
    if spec.layout == "maps_last":
        return features.flatten(1, 2)
    return features[:, None] if spec.layout == "vector" else features


@dataclass(frozen=True)
class Networks:
    """What a loss is built for.

    Attributes:
        student, teacher: name of each feature that the loss asked for -> its shape; `pooled` is always among them.
        num_classes: of the student.
        model: the student, for a loss that copies parts of it.
        teacher_model: the first teacher, likewise.
        teacher_classes: number of its class for each of the student's.
        labels: class of each training sample by its number, where the data set has them all.
        columns: shapes of what a sample has under the names of the losses' `columns`, where the data set tells.
    """

    student: Mapping[str, FeatureSpec]
    teacher: Mapping[str, FeatureSpec]
    num_classes: int
    labels: torch.Tensor | None = None
    columns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    model: nn.Module | None = None
    teacher_model: nn.Module | None = None
    teacher_classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """What a loss may know of a batch beside the features.

    Attributes:
        labels: classes (batch,), or probabilities (batch, classes) of mixed batches.
        epoch, epochs: how far the training is, and how long it is; the first epoch begins at 0.
        index: numbers of the samples in the training set, (batch,), for a loss that `needs_index`.
        seeds: a random number of each sample's own, (batch,), for a loss that `needs_index`: the same however the
            samples are divided over batches and processes.
        own_share: share of each sample's own picture in a mixed batch, (batch,); the rest is that of the sample at
            the same place from the other end. None where that is not asked for.
        extra: whatever else a data set gives, by the names of its columns.
    """

    labels: torch.Tensor | None = None
    epoch: float = 0.0
    epochs: float = 0.0
    index: torch.Tensor | None = None
    seeds: torch.Tensor | None = None
    own_share: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)


class DistillationLoss(nn.Module):
    """A loss on student and teacher.

    A subclass has a `name`, takes its settings as keyword arguments (with their types, by which recipes are read), and
    gives `forward`. Features are named: `logits`, `pooled` (what the classifier is given, flattened), `stage1`,
    `stage2`, ... (`stage_taps`, or the modules that a recipe names instead; `stage1:pre` before its last activation),
    or the path of a module (`path:input` for what it is given).

    Args:
        weight: factor in the sum of all losses.
    """

    #: What recipes call it; None for a class that is none by itself.
    name: ClassVar[str | None] = None
    #: Names of the summands where `forward` returns several; each is logged.
    parts: ClassVar[tuple[str, ...]] = ()
    #: Whether it looks up samples by their numbers.
    needs_index: ClassVar[bool] = False
    #: Columns of the batch that it reads from `Batch.extra`.
    columns: ClassVar[tuple[str, ...]] = ()
    #: Whether it has no use for a teacher.
    needs_teacher: ClassVar[bool] = True
    #: Whether it is given the features and logits of each picture at four rotations, one after the other
    #: (`joint_labels.rotated`), and needs one class for each; the others get those of the upright pictures.
    rotates: ClassVar[bool] = False
    #: Names of buffers that are the same in every process anyway, such as memories of all samples.
    shared_buffers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, weight: float = 1.0):
        super().__init__()
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"weight: got {weight!r}, accepted are numbers from 0.")
        self.weight = float(weight)

    def student_features(self) -> tuple[str, ...]:
        """Names of the student's features that it needs beside logits and pooled ones."""
        return ()

    def teacher_features(self) -> tuple[str, ...]:
        """The same of the teacher."""
        return ()

    def build(self, networks: Networks) -> None:
        """Make projectors and memories for these networks. Called once, before training.

        Raises:
            ValueError: features that the loss cannot be computed from.
        """

    def forward(
        self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor], batch: Batch
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The mean over the batch, before it is weighted, or its `parts`.

        Args:
            student: its features by name, `logits` among them, in the layouts that `build` was told.
            teacher: the same; without gradient.
            batch: what else is known.
        """
        raise NotImplementedError

    def kept(self) -> Mapping[str, tuple[nn.Module, Mapping[str, str]]]:
        """Files that are written beside the student -> (what is in them, what is said about it)."""
        return {}

    def end_step(self) -> None:
        """Called after each step of the optimizer, in every process: where memories move."""
