"""How much a structure of a network (a neuron, a head, a channel) matters, by its weights and their gradients."""

from collections.abc import Sequence

import torch

from ...training.losses.checks import exact
from .choices import STATISTICS, check_choice


def weight_scores(method: str, weight: torch.Tensor, gradient: torch.Tensor | None = None) -> torch.Tensor:
    """What each single weight adds to the score of its structure: |w|, w² or |w g|, in float32 at least.

    Raises:
        ValueError: an unknown method, or Taylor scores without gradients.
    """
    check_choice("method", method, STATISTICS)
    weight = exact(weight)
    if method == "l1":
        return weight.abs()
    if method == "l2":
        return weight.square()
    if gradient is None:
        raise ValueError("method: 'taylor' needs the gradients of calibration batches.")
    return (weight * exact(gradient)).abs()


def structure_scores(
    method: str, weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None] | None = None
) -> torch.Tensor:
    """Scores over the concatenated weights of each structure (https://arxiv.org/abs/2402.02791, section 4).

    Args:
        method: "l1" Σ|w|, "l2" √Σw², "taylor" Σ|w g| with g averaged over the calibration batches.
        weights: tensors whose first dimension numbers the structures; for a neuron j of a gated feed-forward the rows
            of gate and up and the columns of down: `[gate, up, down.T]`.
        gradients: of the same shapes, for "taylor".

    Returns:
        (structures,)
    """
    gradients = [None] * len(weights) if gradients is None else gradients
    total = sum(
        weight_scores(method, weight, gradient).flatten(1).sum(1)
        for weight, gradient in zip(weights, gradients, strict=True)
    )
    return total.sqrt() if method == "l2" else total


def top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, ascending; of equal scores the first.

    Raises:
        ValueError: more than there are, or none.
    """
    if not 1 <= count <= len(scores):
        raise ValueError(f"count: got {count}, accepted are 1 to {len(scores)}.")
    return scores.argsort(descending=True, stable=True)[:count].sort().values
