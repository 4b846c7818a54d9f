"""Multi-granularity distillation of dense predictions: whole images, regions and pixels
(https://arxiv.org/abs/2208.10169)."""

import torch
from torch.nn import functional as F

from .checks import exact


def image_level_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Sum over batch and classes of the absolute differences of the averaged logits (equation 5; the paper's weight is
    0.001, with the deep teacher).

    Args:
        student_logits, teacher_logits: (batch, classes, height, width), sizes may differ; no gradient flows into the
            teacher's.
    """
    student, teacher = exact(student_logits).mean((2, 3)), exact(teacher_logits).detach().mean((2, 3))
    return (student - teacher).abs().sum()


def region_level_loss(
    student_features: torch.Tensor, teacher_features: torch.Tensor, *, grid: int = 7
) -> torch.Tensor:
    """Mean squared difference of the `region_similarities` of two maps (equation 4; the paper's weight is 100, with
    the wide teacher).

    Args:
        student_features, teacher_features: (batch, channels, height, width); sizes and widths may differ, no gradient
            flows into the teacher's.
        grid: regions along each side.
    """
    student = region_similarities(student_features, grid)
    return F.mse_loss(student, region_similarities(teacher_features.detach(), grid))


def region_similarities(features: torch.Tensor, grid: int = 7) -> torch.Tensor:
    """Cosines between the averages of a map's regions, (batch, grid², grid²)."""
    if grid < 1:
        raise ValueError(f"grid: got {grid}, accepted are whole numbers from 1.")
    regions = F.normalize(F.adaptive_avg_pool2d(exact(features), grid).flatten(2), dim=1)
    return regions.transpose(1, 2) @ regions


def pixel_level_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each pixel with the other network's likeliest class, the mean over batch and pixels. On mixed
    images the teacher's logits are those of the clean ones, mixed alike (section 3.2).

    Args:
        student_logits, teacher_logits: (batch, classes, height, width) alike.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 4:
        raise ValueError(
            f"teacher_logits: got shape {tuple(teacher_logits.shape)}, expected the student's "
            f"{tuple(student_logits.shape)}, which is (batch, classes, height, width)."
        )
    return F.cross_entropy(exact(student_logits), teacher_logits.argmax(1))
