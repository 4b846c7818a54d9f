"""Logit distillation against the teacher's probabilities (https://arxiv.org/abs/1503.02531)."""

import torch

from .checks import check_logits, check_temperature
from .interface import DistillationLoss


def soft_target_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Cross-entropy of the student against the teacher's probabilities, T² · mean(−Σ softmax(t/T) · log_softmax(s/T)).

    With T = 1 it is the loss of GhostNetV3 (https://arxiv.org/abs/2404.11202, section 3.2). It differs from the
    Kullback-Leibler divergence by the teacher's entropy, which has no gradient.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes); no gradient flows into it.
        temperature: T.

    Returns:
        A scalar, averaged over the batch.

    Raises:
        ValueError: the shapes differ or the temperature is not positive.
    """
    check_temperature(temperature)
    student, teacher = check_logits(student_logits, teacher_logits)
    targets = (teacher / temperature).softmax(-1)
    log_probabilities = (student / temperature).log_softmax(-1)
    return -(temperature**2) * (targets * log_probabilities).sum(-1).mean()


class SoftTargetLoss(DistillationLoss):
    """`soft_target_loss` of the logits.

    Args:
        temperature: T, above 0.
        weight: see `DistillationLoss`.
    """

    name = "soft_targets"

    def __init__(self, temperature: float = 1.0, weight: float = 1.0):
        super().__init__(weight)
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student, teacher, batch):
        return soft_target_loss(student["logits"], teacher["logits"], self.temperature)
