"""Channel-wise distillation of dense predictions (https://arxiv.org/abs/2011.13256)."""

import torch
from torch import nn
from torch.nn import functional as F

from .checks import check_temperature, exact
from .interface import DistillationLoss, FeatureSpec, Networks, as_maps


def channel_wise_loss(
    student_maps: torch.Tensor, teacher_maps: torch.Tensor, *, temperature: float = 4.0
) -> torch.Tensor:
    r"""CWD (equations 3 and 4): :math:`\frac{T^2}{C} \sum_c \mathrm{KL}(φ(t_c) \| φ(s_c))` with φ the softmax of a
    channel over its positions; the mean over the batch.

    Args:
        student_maps, teacher_maps: logits or features (batch, channels, height, width) of as many channels; where the
            student's map has another size it is resized. No gradient flows into the teacher's.
        temperature: T, above 0.
    """
    check_temperature(temperature)
    student, teacher = exact(student_maps), exact(teacher_maps).detach()
    if student.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"teacher_maps: got shape {tuple(teacher.shape)} for the student's {tuple(student.shape)}, accepted are "
            "(batch, channels, height, width) of the same batch and channels."
        )
    if student.shape[2:] != teacher.shape[2:]:
        student = F.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)
    found, expected = ((maps.flatten(2) / temperature).log_softmax(2) for maps in (student, teacher))
    return temperature**2 * F.kl_div(found, expected, reduction="batchmean", log_target=True) / student.shape[1]


class ChannelWiseLoss(DistillationLoss):
    """`channel_wise_loss` of the stages of both, summed; a 1×1 convolution brings the student's to the teacher's
    width.

    Args:
        stages: their numbers, see `stage_taps`.
        temperature: T, above 0.
        weight: see `DistillationLoss`.
    """

    name = "cwd"

    def __init__(self, stages: list[int] = (4,), temperature: float = 4.0, weight: float = 1.0):
        super().__init__(weight)
        check_temperature(temperature)
        self.stages, self.temperature = list(stages), temperature
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
            self.projector[str(stage)] = nn.Conv2d(ours.channels, theirs.channels, 1)

    def forward(self, student, teacher, batch):
        loss = 0.0
        for stage, (ours, theirs) in self._specs.items():
            maps = self.projector[str(stage)](as_maps(student[f"stage{stage}"], ours))
            taught = as_maps(teacher[f"stage{stage}"], theirs)
            loss = loss + channel_wise_loss(maps, taught, temperature=self.temperature)
        return loss
