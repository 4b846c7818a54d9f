"""Full-stage distillation of a promptable segmentation model (TinySAM, https://arxiv.org/abs/2312.13789, section 3.1).

Distances are mean absolute differences: squares, the paper says, become too small.
"""

import torch
from torch.nn import functional as F

from .checks import exact


def mask_iou(masks: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boolean masks (..., height, width), float64; 1 where both are empty."""
    intersection = (masks & targets).flatten(-2).sum(-1)
    union = (masks | targets).flatten(-2).sum(-1)
    return torch.where(union > 0, intersection.double() / union.clamp(min=1), 1.0)


def mask_hardness(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, targets: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """The hard mask weight H = sigmoid(IoU(teacher, target) / (IoU(student, target) + eps) - 1), equation 6.

    One half where student and teacher are equally good, more where the student is worse; no gradient goes through it.

    Args:
        student_logits, teacher_logits: (..., height, width). targets: booleans of that shape.
    """
    teacher = mask_iou(teacher_logits > 0, targets).to(exact(teacher_logits).dtype)
    student = mask_iou(student_logits > 0, targets).to(exact(student_logits).dtype)
    return torch.sigmoid(teacher / (student + eps) - 1).detach()


def mask_distances(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of each mask's logits, (..., height, width) -> (...)."""
    return (exact(student_logits) - exact(teacher_logits)).abs().mean((-2, -1))


def full_stage_distillation_loss(
    student_embeddings: torch.Tensor,
    teacher_embeddings: torch.Tensor,
    student_tokens: torch.Tensor,
    teacher_tokens: torch.Tensor,
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    embedding_weight: float = 1.0,
    token_weight: float = 1.0,
    mask_weight: float = 1.0,
    eps: float = 1e-6,
) -> torch.Tensor:
    """alpha · L(embeddings) + beta · L(tokens) + gamma · sum over the masks of H · L(mask), equation 7.

    Args:
        student_embeddings, teacher_embeddings: of the image encoders, of one shape.
        student_tokens, teacher_tokens: outputs of the two-way transformers, of one shape.
        student_logits, teacher_logits: (..., height, width). targets: booleans of that shape.
        embedding_weight, token_weight, mask_weight: the paper's alpha, beta and gamma, which it does not give.
        eps: of `mask_hardness`.
    """
    hardness = mask_hardness(student_logits, teacher_logits, targets, eps)
    return (
        embedding_weight * F.l1_loss(exact(student_embeddings), exact(teacher_embeddings))
        + token_weight * F.l1_loss(exact(student_tokens), exact(teacher_tokens))
        + mask_weight * (hardness * mask_distances(student_logits, teacher_logits)).sum()
    )


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0) -> torch.Tensor:
    """Sigmoid focal loss of each mask (https://arxiv.org/abs/1708.02002), mean over its pixels: (...)."""
    logits = exact(logits)
    targets = targets.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = torch.where(targets > 0.5, logits.sigmoid(), 1 - logits.sigmoid())
    share = torch.where(targets > 0.5, alpha, 1 - alpha)
    return (share * (1 - right) ** gamma * entropy).mean((-2, -1))


def dice_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1) of each mask, p the probabilities: (...)."""
    logits = exact(logits)
    probabilities, targets = logits.sigmoid().flatten(-2), targets.to(logits.dtype).flatten(-2)
    overlap = 2 * (probabilities * targets).sum(-1) + 1
    return 1 - overlap / (probabilities.sum(-1) + targets.sum(-1) + 1)
