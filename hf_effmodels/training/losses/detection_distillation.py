"""What a detector learns from another one of its kind: classes, sides of boxes, features (Gold-YOLO's
distillation)."""

from collections.abc import Sequence

import torch


def class_score_distillation(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · Σ KL(softmax(p_t / T) ‖ softmax(p_s / T)) over all points, p the sigmoid scores of the classes.

    The softmax is over *scores*, not logits, and the sum is not divided by anything: so the official code has it.
    (batch, points, classes) both.
    """
    student, teacher = (_exact(scores).sigmoid() / temperature for scores in (logits, teacher_logits))
    return _divergence(student, teacher).sum() * temperature**2


def distribution_distillation(
    logits: torch.Tensor, teacher_logits: torch.Tensor, weights: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T² · the mean over (box, side) of KL between the softened distributions of boxes' sides.

    The mean is multiplied by the weights of all boxes and divided by their sum, as the official code does; that leaves
    it as it is, except where no box has a weight.

    Args:
        logits, teacher_logits: (boxes, 4, bins).
        weights: (boxes,).
    """
    if not len(weights):
        return logits.sum() * 0
    student, teacher = (_exact(values) / temperature for values in (logits, teacher_logits))
    mean = _divergence(student, teacher).mean() * temperature**2
    total = weights.sum()
    return (mean * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def channel_wise_distillation(
    maps: Sequence[torch.Tensor], teacher_maps: Sequence[torch.Tensor], temperature: float = 1.0
) -> torch.Tensor:
    """KL between the spatial softmaxes of each channel, summed over levels, per image and channel.

    https://arxiv.org/abs/2011.13256, equation 4. Maps (batch, channels, height, width), of the same shapes.
    """
    total = 0
    for features, teacher in zip(maps, teacher_maps, strict=True):
        batch, channels = features.shape[:2]
        student, target = (_exact(values).flatten(2) / temperature for values in (features, teacher))
        total = total + _divergence(student, target).sum() * temperature**2 / (batch * channels)
    return total


def _exact(values: torch.Tensor) -> torch.Tensor:
    """In float32 at least: tiny divergences of half precision come out negative."""
    return values if values.dtype == torch.float64 else values.float()


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher ‖ student) over the last dimension, of logits.

    The sum of p_t · (d + e^-d - 1) with d = log p_t - log p_s, whose terms are not negative: where the two are nearly
    equal, rounding would make the usual sum of p_t · d fall below zero, and high temperatures multiply it.
    """
    log_teacher = teacher.log_softmax(-1)
    difference = log_teacher - student.log_softmax(-1)
    return (log_teacher.exp() * (difference + torch.expm1(-difference)).clamp(min=0)).sum(-1)
