"""Which texts a larger CLIP takes to be like an image, for a smaller one: TinyCLIP's affinity mimicking
(https://arxiv.org/abs/2309.12314, section 3.1)."""

import torch
from torch.nn import functional as F

from .checks import exact


def affinity_loss(
    student_images: torch.Tensor,
    student_texts: torch.Tensor,
    teacher_images: torch.Tensor,
    teacher_texts: torch.Tensor,
    student_scale: torch.Tensor | float,
    teacher_scale: torch.Tensor | float,
) -> torch.Tensor:
    """KL divergence of the student's affinities from the teacher's, the mean over both directions and the batch.

    The affinity of image i to the texts is the softmax of its scaled cosines with all of them; that of texts likewise.

    Args:
        student_images, student_texts: (batch, width), of any length; pair i is row i of both.
        teacher_images, teacher_texts: (batch, any width), without gradient.
        student_scale, teacher_scale: factors of the cosines.

    Raises:
        ValueError: not as many of all, or a batch of one, in which there is nothing to be alike.
    """
    _check(student_images, student_texts, teacher_images, teacher_texts)
    student = _logits(student_images, student_texts, student_scale)
    teacher = _logits(teacher_images, teacher_texts, teacher_scale).detach()
    divergences = [
        F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
        for ours, theirs in ((student, teacher), (student.T, teacher.T))
    ]
    return (divergences[0] + divergences[1]) / 2


def _logits(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    return scale * F.normalize(exact(images), dim=-1) @ F.normalize(exact(texts), dim=-1).T


def _check(*embeds: torch.Tensor) -> None:
    counts = [len(part) for part in embeds]
    if len(set(counts)) > 1 or counts[0] < 2:
        raise ValueError(
            f"student_images, student_texts, teacher_images, teacher_texts: got {counts} rows, accepted are as many "
            "of all, two or more."
        )
