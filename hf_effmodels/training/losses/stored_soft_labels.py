"""Distillation against a teacher's largest probabilities, stored beforehand (TinyViT, https://arxiv.org/abs/2207.10666,
section 3.1). Classes that were not stored share what is missing to 1."""

import torch

from .checks import exact


def dense_targets(ids: torch.Tensor, probabilities: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The teacher's distribution, (batch, classes), rebuilt from its K largest probabilities.

    Args:
        ids: classes of the stored probabilities, (batch, K), all different within a row.
        probabilities: (batch, K), each row with a sum of at most 1.
        num_classes: C, more than K.
    """
    rest = _rest(ids, probabilities, num_classes)
    return rest.expand(-1, num_classes).scatter(1, ids, probabilities)


def stored_soft_label_loss(logits: torch.Tensor, ids: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    r"""Cross entropy against `dense_targets`, without ever building them.

    With s = log_softmax(logits) and r the share of a class that is not stored,
    :math:`-\sum_K (p_k - r)\, s_k - r \sum_C s_c`; the mean over the batch.

    Args:
        logits: the student's, (batch, C).
        ids, probabilities: (batch, K), as for `dense_targets`.

    Raises:
        ValueError: shapes that do not fit, classes outside the logits, or as many stored as there are.
    """
    if ids.shape != probabilities.shape or ids.ndim != 2 or len(ids) != len(logits):
        raise ValueError(
            f"stored labels: got ids {tuple(ids.shape)} and probabilities {tuple(probabilities.shape)} for logits "
            f"{tuple(logits.shape)}, accepted are (batch, K) for both."
        )
    num_classes = logits.shape[1]
    probabilities, scores = exact(probabilities), exact(logits).log_softmax(-1)
    rest = _rest(ids, probabilities, num_classes)
    stored = ((probabilities - rest) * scores.gather(1, ids)).sum(1)
    return -(stored + rest[:, 0] * scores.sum(1)).mean()


def _rest(ids: torch.Tensor, probabilities: torch.Tensor, num_classes: int) -> torch.Tensor:
    stored = ids.shape[1]
    if not 0 < stored < num_classes:
        raise ValueError(f"stored labels: got {stored} per sample, accepted are 1 to {num_classes - 1}.")
    wrong = ids[(ids < 0) | (ids >= num_classes)]
    if len(wrong):
        raise ValueError(f"stored labels: class {int(wrong[0])} is none of the student's {num_classes}.")
    return (1 - probabilities.sum(1, keepdim=True)) / (num_classes - stored)
