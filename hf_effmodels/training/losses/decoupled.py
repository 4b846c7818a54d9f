"""Decoupled knowledge distillation (https://arxiv.org/abs/2203.08679)."""

import torch
from torch.nn import functional as F

from .checks import check_logits, check_temperature, hard_labels
from .interface import DistillationLoss


def decoupled_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 1.0,
) -> torch.Tensor:
    r"""DKD: :math:`T^2 (\alpha \, \mathrm{TCKD} + \beta \, \mathrm{NCKD})`, batch means.

    TCKD is the Kullback-Leibler divergence of "the target or another class", NCKD that among the other classes.

    Args:
        student_logits, teacher_logits: (batch, classes); no gradient flows into the teacher's.
        labels: (batch,) target classes, or probabilities (batch, classes), of which the largest is the target.
        alpha, beta: weights of the two. 1 and 2 are VanillaKD's; the paper's on CIFAR are 1 and 8 with T = 4.
        temperature: T, above 0.

    Raises:
        ValueError: fewer than two classes, shapes that differ, a temperature that is not positive.
    """
    check_temperature(temperature)
    student, teacher = check_logits(student_logits, teacher_logits)
    if student.shape[1] < 2:
        raise ValueError(f"student_logits: got {student.shape[1]} class, accepted are 2 and more.")
    target = F.one_hot(hard_labels(labels), student.shape[1]).bool()
    found, expected = _parts(student / temperature, target), _parts(teacher / temperature, target)
    divergences = [
        F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        for ours, theirs in zip(found, expected, strict=True)
    ]
    return temperature**2 * (alpha * divergences[0] + beta * divergences[1])


def _parts(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of the probabilities of the target and of all others together (batch, 2), and of the others among
    themselves (batch, classes - 1)."""
    others = logits[~target].view(len(logits), -1)
    both = torch.stack([logits[target], others.logsumexp(1)], dim=1)
    return both.log_softmax(1), others.log_softmax(1)


class DkdLoss(DistillationLoss):
    """`decoupled_loss` of the logits; it needs labels.

    Args:
        alpha, beta: weights of target and other classes.
        temperature: T, above 0.
        weight: see `DistillationLoss`.
    """

    name = "dkd"

    def __init__(self, alpha: float = 1.0, beta: float = 2.0, temperature: float = 1.0, weight: float = 1.0):
        super().__init__(weight)
        check_temperature(temperature)
        self.settings = {"alpha": alpha, "beta": beta, "temperature": temperature}

    def forward(self, student, teacher, batch):
        return decoupled_loss(student["logits"], teacher["logits"], batch.labels, **self.settings)
