"""FitNets: hints for a student's stages (https://arxiv.org/abs/1412.6550), in the form that OFA-KD compares with."""

import torch
from torch import nn
from torch.nn import functional as F

from .checks import exact
from .interface import DistillationLoss, FeatureSpec, Networks, as_maps


def hint_loss(student_maps: torch.Tensor, teacher_maps: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two maps; the student's is resized to the teacher's where their sizes differ.

    Args:
        student_maps, teacher_maps: (batch, channels, height, width) of as many channels; no gradient flows into the
            teacher's.
    """
    student, teacher = exact(student_maps), exact(teacher_maps).detach()
    if student.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"teacher_maps: got shape {tuple(teacher.shape)} for the student's {tuple(student.shape)}, accepted are "
            "(batch, channels, height, width) of the same batch and channels."
        )
    if student.shape[2:] != teacher.shape[2:]:
        student = F.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)
    return F.mse_loss(student, teacher)


class FitNetLoss(DistillationLoss):
    """`hint_loss` between the stages of both, summed: a 1×1 convolution without bias brings the student's to the
    teacher's width. Tokens are laid on their grid, without class tokens; maps are resized. The published code takes
    convolutional networks with equal maps only.

    Args:
        stages: their numbers, see `stage_taps`.
        weight: see `DistillationLoss`.
    """

    name = "fitnet"

    def __init__(self, stages: list[int] = (1, 2, 3, 4), weight: float = 1.0):
        super().__init__(weight)
        self.stages = list(stages)
        if not self.stages or min(self.stages) < 1:
            raise ValueError(f"stages: got {self.stages}, accepted are numbers from 1.")
        self.projector = nn.ModuleDict()
        self._specs: dict[int, tuple[FeatureSpec, FeatureSpec]] = {}

    def student_features(self):
        return tuple(f"stage{stage}" for stage in self.stages)

    teacher_features = student_features

    def build(self, networks: Networks) -> None:
        for stage in self.stages:
            ours, theirs = (features[f"stage{stage}"] for features in (networks.student, networks.teacher))
            self._specs[stage] = ours, theirs
            self.projector[str(stage)] = nn.Conv2d(ours.channels, theirs.channels, 1, bias=False)

    def forward(self, student, teacher, batch):
        loss = 0.0
        for stage, (ours, theirs) in self._specs.items():
            maps = self.projector[str(stage)](as_maps(student[f"stage{stage}"], ours))
            loss = loss + hint_loss(maps, as_maps(teacher[f"stage{stage}"], theirs))
        return loss
