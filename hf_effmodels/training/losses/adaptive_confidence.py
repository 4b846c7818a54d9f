"""Weak teachers for strong students (https://arxiv.org/abs/2402.03749): how far their own predictions are trusted."""

import torch
from torch.nn import functional as F

from .checks import check_logits, check_share, check_temperature
from .interface import DistillationLoss
from .kl_divergence import kl_divergence_loss, per_sample_kl


def student_confidence(student_logits: torch.Tensor, teacher_logits: torch.Tensor, tau: float = 0.5) -> torch.Tensor:
    r"""β of AdaptConf (equation 5), (batch,), without gradient:
    :math:`\sigma((\mathrm{CE}(z_s, \hat y_s) - \mathrm{CE}(z_s, \hat y_t)) / \tau)`.

    It is 1/2 where both predict the same class, and less where they do not: the surer the student, the less. So the
    official code and the paper's formula have it, though the paper's words suggest the opposite.

    Args:
        student_logits, teacher_logits: (batch, classes).
        tau: a temperature, above 0; the official option is called a threshold.
    """
    check_temperature(tau, "tau")
    student, teacher = check_logits(student_logits, teacher_logits)
    scores = student.detach().log_softmax(1)
    own = scores.max(1).values
    theirs = scores.gather(1, teacher.argmax(1, keepdim=True))[:, 0]
    return ((theirs - own) / tau).sigmoid()


def ramp(epoch: float, epochs: float, warmup: float) -> float:
    """epoch / (warmup · epochs), and 1 from the whole epoch ⌊warmup · epochs⌋ on, as the official code cuts it off."""
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup: got {warmup}, accepted are shares from 0 to 1.")
    return epoch / (warmup * epochs) if epoch < int(warmup * epochs) else 1.0


def adaptive_confidence_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    tau: float = 0.5,
    temperature: float = 1.0,
    epoch: float = 0.0,
    epochs: float = 0.0,
    warmup: float = 0.25,
) -> dict[str, torch.Tensor]:
    r"""AdaptConf: `teacher`, the mean of :math:`(1 - β) \, \mathrm{KL}`, and `own`, the mean of
    :math:`β \, \mathrm{CE}(z_s, \hat y_s)`; their sum is the loss.

    Args:
        student_logits, teacher_logits: (batch, classes); no gradient flows into the teacher's.
        tau: see `student_confidence`.
        temperature: T, of the divergence alone.
        epoch, epochs, warmup: during this share of the `epochs` β grows from 0, as for few examples and noisy labels;
            without `epochs` it is there from the beginning.
    """
    beta = student_confidence(student_logits, teacher_logits, tau) * ramp(epoch, epochs, warmup)
    student, _ = check_logits(student_logits, teacher_logits)
    own = F.cross_entropy(student, student.argmax(1), reduction="none")
    return {
        "teacher": ((1 - beta) * per_sample_kl(student_logits, teacher_logits, temperature)).mean(),
        "own": (beta * own).mean(),
    }


def auxiliary_confidence_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    alpha: float = 0.5,
    temperature: float = 1.0,
    epoch: float = 0.0,
    epochs: float = 0.0,
    warmup: float = 0.3,
) -> dict[str, torch.Tensor]:
    """AugConf, the auxiliary confidence loss of "Weak-to-Strong Generalization" (https://arxiv.org/abs/2312.09390) as
    the paper compares with it: the same weight for all samples, which grows from 0 to `alpha`.

    Args:
        student_logits, teacher_logits: (batch, classes); no gradient flows into the teacher's.
        alpha: weight of the student's own prediction in the end, from 0 to 1.
        temperature: T, of the divergence alone.
        epoch, epochs, warmup: during this share of the `epochs` the weight grows; without `epochs` it is `alpha`.
    """
    check_share("alpha", alpha)
    weight = alpha * ramp(epoch, epochs, warmup)
    student, _ = check_logits(student_logits, teacher_logits)
    return {
        "teacher": (1 - weight) * kl_divergence_loss(student_logits, teacher_logits, temperature),
        "own": weight * F.cross_entropy(student, student.argmax(1)),
    }


class AdaptiveConfidenceLoss(DistillationLoss):
    """`adaptive_confidence_loss` of the logits: AdaptConf, for a teacher weaker than the student.

    Args:
        tau: temperature of the confidence.
        temperature: T of the divergence.
        warmup: share of the epochs over which confidence grows; 0, as for whole data sets, for none. The paper's
            few-shot and noisy-label trainings have 0.25.
        weight: see `DistillationLoss`.
    """

    name = "adaptconf"
    parts = ("teacher", "own")

    def __init__(self, tau: float = 0.5, temperature: float = 1.0, warmup: float = 0.0, weight: float = 1.0):
        super().__init__(weight)
        check_temperature(tau, "tau")
        check_temperature(temperature)
        ramp(0, 1, warmup)
        self.settings = {"tau": tau, "temperature": temperature, "warmup": warmup}

    def forward(self, student, teacher, batch):
        times = {"epoch": batch.epoch, "epochs": batch.epochs}
        return adaptive_confidence_loss(student["logits"], teacher["logits"], **self.settings, **times)


class AuxiliaryConfidenceLoss(DistillationLoss):
    """`auxiliary_confidence_loss` of the logits: AugConf.

    Args:
        alpha: weight of the student's own prediction in the end.
        temperature: T of the divergence.
        warmup: share of the epochs over which that weight grows.
        weight: see `DistillationLoss`.
    """

    name = "augconf"
    parts = ("teacher", "own")

    def __init__(self, alpha: float = 0.5, temperature: float = 1.0, warmup: float = 0.3, weight: float = 1.0):
        super().__init__(weight)
        check_temperature(temperature)
        check_share("alpha", alpha)
        ramp(0, 1, warmup)
        self.settings = {"alpha": alpha, "temperature": temperature, "warmup": warmup}

    def forward(self, student, teacher, batch):
        times = {"epoch": batch.epoch, "epochs": batch.epochs}
        return auxiliary_confidence_loss(student["logits"], teacher["logits"], **self.settings, **times)
