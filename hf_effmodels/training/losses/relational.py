"""Relational knowledge distillation (https://arxiv.org/abs/1904.05068)."""

import torch
from torch.nn import functional as F

from .checks import exact
from .interface import POOLED, DistillationLoss, Networks


def relational_loss(
    student_features: torch.Tensor,
    teacher_features: torch.Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    squared: bool = False,
    eps: float = 1e-12,
) -> torch.Tensor:
    """RKD: smooth L1 between the batch's distances, and between its angles.

    Distances are divided by their mean. The angle of three samples is the cosine at the middle one.

    Args:
        student_features: (batch, ...), flattened; memory of the angles grows with the batch to the third power.
        teacher_features: (batch, ...), of any width; no gradient flows into it.
        distance_weight, angle_weight: 0 leaves one out.
        squared: take squared distances.
        eps: the least squared distance.
    """
    if len(student_features) != len(teacher_features) or len(student_features) < 2:
        raise ValueError(
            f"teacher_features: got {len(teacher_features)} samples for the student's {len(student_features)}; "
            "accepted are as many, at least 2."
        )
    student = exact(student_features.flatten(1))
    teacher = exact(teacher_features.flatten(1)).detach()
    loss = student.new_zeros(())
    if distance_weight:
        found, expected = (_distances(features, squared, eps) for features in (student, teacher))
        loss = loss + distance_weight * F.smooth_l1_loss(found, expected)
    if angle_weight:
        loss = loss + angle_weight * F.smooth_l1_loss(_angles(student), _angles(teacher))
    return loss


def _distances(features: torch.Tensor, squared: bool, eps: float) -> torch.Tensor:
    """All pairs' distances over their mean, (batch, batch), 0 on the diagonal."""
    squares = features.pow(2).sum(1)
    distances = (squares[:, None] + squares[None] - 2 * features @ features.T).clamp(min=eps)
    if not squared:
        distances = distances.sqrt()
    distances = distances * (1 - torch.eye(len(features), dtype=distances.dtype, device=distances.device))
    return distances / distances[distances > 0].mean()


def _angles(features: torch.Tensor) -> torch.Tensor:
    """Cosines between the differences to each sample, (batch, batch, batch)."""
    directions = F.normalize(features[None] - features[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


class RkdLoss(DistillationLoss):
    """`relational_loss` of the pooled features, over the batch of a process: one of two samples at least.

    Args:
        distance_weight, angle_weight: 0 leaves one out.
        squared: take squared distances.
        weight: see `DistillationLoss`.
    """

    name = "rkd"

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        squared: bool = False,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        self.settings = {"distance_weight": distance_weight, "angle_weight": angle_weight, "squared": squared}

    def build(self, networks: Networks) -> None:
        networks.teacher[POOLED]  # stored labels have none; that is told before training

    def forward(self, student, teacher, batch):
        return relational_loss(student[POOLED], teacher[POOLED], **self.settings)
