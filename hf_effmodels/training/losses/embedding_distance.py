"""Where a larger CLIP puts images and texts, for a smaller one of the same width: CLIP-KD's feature distillation
(https://arxiv.org/abs/2307.12732, section 3.2)."""

import torch
from torch.nn import functional as F

from .checks import exact


def embedding_distance(
    student_images: torch.Tensor,
    student_texts: torch.Tensor,
    teacher_images: torch.Tensor,
    teacher_texts: torch.Tensor,
) -> torch.Tensor:
    """Squared distance of the student's unit vectors from the teacher's, of images plus of texts, the mean over the
    batch.

    Args:
        student_images, student_texts: (batch, width), of any length.
        teacher_images, teacher_texts: of the same shapes, without gradient.

    Raises:
        ValueError: other shapes.
    """
    total = 0.0
    for name, student, teacher in (
        ("images", student_images, teacher_images),
        ("texts", student_texts, teacher_texts),
    ):
        if student.shape != teacher.shape:
            raise ValueError(
                f"teacher_{name}: got shape {tuple(teacher.shape)}, expected the student's {tuple(student.shape)}."
            )
        ours, theirs = F.normalize(exact(student), dim=-1), F.normalize(exact(teacher).detach(), dim=-1)
        total = total + (ours - theirs).pow(2).sum(-1).mean()
    return total
