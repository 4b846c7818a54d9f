"""Knowledge distillation as it was published (https://arxiv.org/abs/1503.02531), and in its binary form."""

import torch
from torch.nn import functional as F

from .checks import check_logits, check_temperature
from .interface import DistillationLoss


def kl_divergence_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    r"""KD: :math:`T^2 \cdot \mathrm{mean}_b \sum_c p^t_c (\log p^t_c - \log p^s_c)` with p = softmax(z / T).

    It differs from `soft_target_loss` by the teacher's entropy, which has no gradient: it is 0 where both agree.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes); no gradient flows into it.
        temperature: T, above 0.

    Returns:
        A scalar, computed in float32 at least.
    """
    return per_sample_kl(student_logits, teacher_logits, temperature).mean()


def per_sample_kl(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """The summands of `kl_divergence_loss`, (batch,)."""
    check_temperature(temperature)
    student, teacher = check_logits(student_logits, teacher_logits)
    expected = (teacher / temperature).log_softmax(-1)
    found = (student / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(found, expected, reduction="none", log_target=True).sum(-1)


def binary_soft_target_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """BKD (VanillaKD, https://arxiv.org/abs/2305.15781): binary cross entropy of each class by itself against the
    teacher's softmax, the mean over batch and classes. There is no temperature.

    Args:
        student_logits, teacher_logits: (batch, classes); no gradient flows into the teacher's.
    """
    student, teacher = check_logits(student_logits, teacher_logits)
    return F.binary_cross_entropy_with_logits(student, teacher.softmax(-1))


class KdLoss(DistillationLoss):
    """`kl_divergence_loss` of the logits. Nothing but logits is needed of the teacher.

    Args:
        temperature: T, above 0.
        weight: see `DistillationLoss`.
    """

    name = "kd"

    def __init__(self, temperature: float = 1.0, weight: float = 1.0):
        super().__init__(weight)
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student, teacher, batch):
        return kl_divergence_loss(student["logits"], teacher["logits"], self.temperature)


class BinaryKdLoss(DistillationLoss):
    """`binary_soft_target_loss` of the logits: BKD.

    Args:
        weight: see `DistillationLoss`.
    """

    name = "bkd"

    def __init__(self, weight: float = 1.0):
        super().__init__(weight)

    def forward(self, student, teacher, batch):
        return binary_soft_target_loss(student["logits"], teacher["logits"])
