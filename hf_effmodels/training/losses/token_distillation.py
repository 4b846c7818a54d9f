"""DeiT's distillation by a token of its own (https://arxiv.org/abs/2012.12877)."""

from typing import Literal

import torch
from torch.nn import functional as F

from .checks import check_logits, check_temperature
from .interface import LOGITS, DistillationLoss, Networks


def token_distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    kind: Literal["soft", "hard"] = "hard",
    temperature: float = 1.0,
) -> torch.Tensor:
    r"""What the distillation token's head learns from the teacher (equations 2 and 3).

    `soft`: :math:`T^2 \, \mathrm{KL}` as the official code reduces it, the mean over the batch and the classes (so it
    is `kl_divergence_loss` divided by the number of classes). `hard`: cross entropy with the teacher's likeliest
    class.

    Args:
        student_logits: of the distillation token's head, (batch, classes): `distillation_logits` of transformers'
            `DeiTForImageClassificationWithTeacher`. Any classifier's logits serve.
        teacher_logits: (batch, classes); no gradient flows into it.
        kind: soft or hard.
        temperature: T of the soft kind, above 0.
    """
    check_temperature(temperature)
    student, teacher = check_logits(student_logits, teacher_logits)
    if kind == "hard":
        return F.cross_entropy(student, teacher.argmax(1))
    if kind != "soft":
        raise ValueError(f"kind: got {kind!r}, accepted are 'soft' and 'hard'.")
    found, expected = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(found, expected, reduction="none", log_target=True).mean()


def check_classifier(networks: Networks, argument: str, path: str) -> None:
    """ValueError unless a module of the student gives a number for each class."""
    shape = networks.student[path].shape
    if shape != (networks.num_classes,):
        raise ValueError(
            f"{argument}: {path} gives {shape}, accepted are the student's {networks.num_classes} classes."
        )


class TokenDistillationLoss(DistillationLoss):
    """`token_distillation_loss` of a head of the student's.

    Args:
        head: path of the module that gives the logits, such as `distillation_classifier` of transformers'
            `DeiTForImageClassificationWithTeacher`; the student's logits by default.
        kind, temperature: see `token_distillation_loss`.
        weight: see `DistillationLoss`.
    """

    name = "deit"

    def __init__(
        self,
        head: str | None = None,
        kind: Literal["soft", "hard"] = "hard",
        temperature: float = 1.0,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        self.head, self.kind, self.temperature = head or LOGITS, kind, temperature

    def student_features(self):
        return () if self.head == LOGITS else (self.head,)

    def build(self, networks: Networks) -> None:
        if self.head != LOGITS:
            check_classifier(networks, "head", self.head)

    def forward(self, student, teacher, batch):
        options = {"kind": self.kind, "temperature": self.temperature}
        return token_distillation_loss(student[self.head], teacher[LOGITS], **options)
