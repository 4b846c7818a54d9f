"""DIST: distillation of relations instead of values (https://arxiv.org/abs/2205.10536)."""

import torch

from .checks import check_logits, check_temperature
from .interface import DistillationLoss

_EPS = 1e-8


def dist_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> torch.Tensor:
    r""":math:`T^2 (\beta (1 - \bar ρ_{rows}) + \gamma (1 - \bar ρ_{columns}))` of the softmaxes at temperature T.

    ρ is Pearson's correlation of student and teacher: of each sample over the classes, of each class over the batch.

    Args:
        student_logits, teacher_logits: (batch, classes); no gradient flows into the teacher's. The second term looks
            at the whole batch: its value depends on which samples are in it.
        beta, gamma: weights of the two.
        temperature: T, above 0.
    """
    check_temperature(temperature)
    student, teacher = check_logits(student_logits, teacher_logits)
    student, teacher = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    between = 1 - _correlation(student, teacher).mean()
    within = 1 - _correlation(student.T, teacher.T).mean()
    return temperature**2 * (beta * between + gamma * within)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of the rows."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + _EPS)


class DistLoss(DistillationLoss):
    """`dist_loss` of the logits. Its second term looks at the whole batch of a process.

    Args:
        beta, gamma: weights of the relations between classes and within them.
        temperature: T, above 0.
        weight: see `DistillationLoss`.
    """

    name = "dist"

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, weight: float = 1.0):
        super().__init__(weight)
        check_temperature(temperature)
        self.settings = {"beta": beta, "gamma": gamma, "temperature": temperature}

    def forward(self, student, teacher, batch):
        return dist_loss(student["logits"], teacher["logits"], **self.settings)
