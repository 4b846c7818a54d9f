"""Distilling knowledge via knowledge review (https://arxiv.org/abs/2104.09044)."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .checks import exact
from .interface import POOLED, DistillationLoss, FeatureSpec, Networks, as_maps

#: Sides of the averaged maps of the hierarchical context loss; each weighs half of the one before.
_LEVELS = (4, 2, 1)


class AttentionFusion(nn.Module):
    """One stage of the student, and what came from the deeper ones, to the teacher's width (figure 3)."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, fuse: bool):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, mid_channels, 1, bias=False), nn.BatchNorm2d(mid_channels))
        self.expand = nn.Sequential(
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.gates = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if fuse else None
        for layer in (self.reduce[0], self.expand[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(
        self, features: torch.Tensor, deeper: torch.Tensor | None, fuse_size: int, out_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The map in the teacher's width, and the fused one for the next shallower stage."""
        features = self.reduce(features)
        if self.gates is not None:
            deeper = F.interpolate(deeper, (fuse_size, fuse_size), mode="nearest")
            gates = self.gates(torch.cat([features, deeper], dim=1))
            features = features * gates[:, :1] + deeper * gates[:, 1:]
        wide = features
        if features.shape[-1] != out_size:
            wide = F.interpolate(features, (out_size, out_size), mode="nearest")
        return self.expand(wide), features


class KnowledgeReviewLoss(nn.Module):
    """ReviewKD: all stages of the student, fused from the deepest upwards, against the teacher's.

    Args:
        student_channels, teacher_channels: widths of the stages from shallow to deep, the pooled features last.
        sizes: sides of the teacher's maps from deep to shallow, the pooled features' 1 first.
        student_sizes: the student's, where they differ from the teacher's.
        mid_channels: width in which maps are fused.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        sizes: Sequence[int],
        *,
        student_sizes: Sequence[int] | None = None,
        mid_channels: int = 512,
    ):
        super().__init__()
        if not len(student_channels) == len(teacher_channels) == len(sizes):
            raise ValueError(
                f"sizes: got {len(student_channels)} widths of the student, {len(teacher_channels)} of the teacher "
                f"and {len(sizes)} sizes, accepted are as many of each."
            )
        self.sizes, self.student_sizes = list(sizes), list(student_sizes or sizes)
        mid_channels = min(mid_channels, student_channels[-1])
        widths = list(zip(student_channels, teacher_channels, strict=True))
        deepest = len(widths) - 1
        self.fusions = nn.ModuleList(
            AttentionFusion(ours, mid_channels, theirs, fuse=index < deepest)
            for index, (ours, theirs) in reversed(list(enumerate(widths)))
        )

    def forward(
        self, student_features: Sequence[torch.Tensor], teacher_features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """
        Args:
            student_features, teacher_features: maps (batch, channels, height, width) from shallow to deep, before the
                stages' last activations; then the pooled features (batch, channels).
        """
        loss, deeper = 0.0, None
        stages = zip(
            reversed([_map(f) for f in student_features]),
            reversed([_map(f.detach()) for f in teacher_features]),
            self.fusions,
            self.student_sizes,
            self.sizes,
            strict=True,
        )
        for student, teacher, fusion, fuse_size, out_size in stages:
            output, deeper = fusion(student, deeper, fuse_size, out_size)
            loss = loss + context_loss(output, teacher)
        return loss


def context_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The hierarchical context loss of two maps: mean squared errors of the maps and of their averages over 4×4, 2×2
    and 1×1 parts, with weights 1, 1/2, 1/4, 1/8, as far as these are smaller, over the sum of the weights."""
    student, teacher = exact(student), exact(teacher)
    loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for side in _LEVELS:
        if side < student.shape[2]:
            weight /= 2
            averages = (F.adaptive_avg_pool2d(features, side) for features in (student, teacher))
            loss, total = loss + weight * F.mse_loss(*averages), total + weight
    return loss / total


def _map(features: torch.Tensor) -> torch.Tensor:
    return features if features.ndim == 4 else features[:, :, None, None]


class ReviewKdLoss(DistillationLoss):
    """`KnowledgeReviewLoss` of the stages before their last activations, and of the pooled features.

    Args:
        stages: their numbers, see `stage_taps`.
        mid_channels: width in which maps are fused.
        warmup_epochs: over so many whole epochs the loss grows from 0, which it is in the first one.
        weight: see `DistillationLoss`.
    """

    name = "review"

    def __init__(
        self,
        stages: list[int] = (1, 2, 3, 4),
        mid_channels: int = 512,
        warmup_epochs: int = 1,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        if not stages or min(stages) < 1:
            raise ValueError(f"stages: got {list(stages)}, accepted are numbers from 1.")
        for name, value, least in (("mid_channels", mid_channels, 1), ("warmup_epochs", warmup_epochs, 0)):
            if value < least:
                raise ValueError(f"{name}: got {value}, accepted are whole numbers from {least}.")
        self.stages, self.mid_channels, self.warmup_epochs = list(stages), mid_channels, warmup_epochs

    def student_features(self):
        return tuple(f"stage{stage}:pre" for stage in self.stages)

    teacher_features = student_features

    def build(self, networks: Networks) -> None:
        self._specs = [
            [*(features[name] for name in self.student_features()), features[POOLED]]
            for features in (networks.student, networks.teacher)
        ]
        for spec in (*self._specs[0], *self._specs[1]):
            if len({*spec.grid}) > 1:
                raise ValueError(f"{spec.path}: got maps of {spec.grid[0]}×{spec.grid[1]}, accepted are square ones.")
        widths, sizes = ([[read(spec) for spec in specs] for specs in self._specs] for read in (_width, _side))
        self.review = KnowledgeReviewLoss(
            *widths, sizes[1][::-1], student_sizes=sizes[0][::-1], mid_channels=self.mid_channels
        )

    def forward(self, student, teacher, batch):
        names = [*self.student_features(), POOLED]
        ours, theirs = (
            [as_maps(features[name], spec) for name, spec in zip(names, specs, strict=True)]
            for features, specs in zip((student, teacher), self._specs, strict=True)
        )
        return (
            min(int(batch.epoch) / self.warmup_epochs, 1.0) * self.review(ours, theirs)
            if self.warmup_epochs
            else (self.review(ours, theirs))
        )


def _width(spec: FeatureSpec) -> int:
    return spec.channels


def _side(spec: FeatureSpec) -> int:
    return spec.grid[0]
