"""The losses of CDFKD-MFS (https://arxiv.org/abs/2205.11845) and of CDFKD before it, of heads and their teachers."""

import torch
from torch.nn import functional as F

from .checks import exact
from .kl_divergence import kl_divergence_loss


def head_losses(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_features: torch.Tensor | None = None,
    teacher_features: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """What the student minimises, not yet weighted (published: 1, 0.2 and 5).

    Args:
        student_logits, teacher_logits: (batch, heads, labels), a head for each teacher.
        student_features, teacher_features: (batch, heads, width), what the classifiers see; left out where the widths
            differ.

    Returns:
        `heads`, the mean absolute difference of the logits; `ensemble`, that of their means over the heads; `features`
        where they are given: mean over batch and heads of the sum of absolute differences.

    Raises:
        ValueError: the shapes differ.
    """
    student_logits, teacher_logits = _checked("student_logits", student_logits, teacher_logits)
    losses = {
        "heads": F.l1_loss(student_logits, teacher_logits),
        "ensemble": F.l1_loss(student_logits.mean(1), teacher_logits.mean(1)),
    }
    if student_features is not None:
        student_features, teacher_features = _checked("student_features", student_features, teacher_features)
        losses["features"] = (student_features - teacher_features).abs().sum(-1).mean()
    return losses


def disagreement(student_logits: torch.Tensor, teacher_logits: torch.Tensor, num_teachers: int) -> torch.Tensor:
    """What the generator minimises of one teacher: the negative mean absolute difference over the number of teachers.

    Args:
        student_logits, teacher_logits: (batch, labels), of a head and its teacher.
    """
    student_logits, teacher_logits = _checked("student_logits", student_logits, teacher_logits)
    return -F.l1_loss(student_logits, teacher_logits) / num_teachers


def soft_head_losses(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """The losses of CDFKD: Kullback-Leibler divergences at temperature 1, which its generator maximises as they are.

    Args:
        student_logits, teacher_logits: (batch, heads, labels); no gradient flows into the teachers'.

    Returns:
        `heads`, the mean over the heads, and `ensemble`, of the mean logits.
    """
    student_logits, teacher_logits = _checked("student_logits", student_logits, teacher_logits)
    pairs = zip(student_logits.unbind(1), teacher_logits.unbind(1), strict=True)
    return {
        "heads": torch.stack([kl_divergence_loss(*pair) for pair in pairs]).mean(),
        "ensemble": kl_divergence_loss(student_logits.mean(1), teacher_logits.mean(1)),
    }


def _checked(name: str, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if student.shape != teacher.shape:
        raise ValueError(f"{name}: got shape {tuple(student.shape)}, the teachers' is {tuple(teacher.shape)}.")
    return exact(student), exact(teacher)
