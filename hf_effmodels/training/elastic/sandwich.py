"""The sandwich rule with in-place distillation (BigNAS, https://arxiv.org/abs/2003.11142, section 3.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ..losses.soft_targets import soft_target_loss


def sandwich_backward(
    run: Callable[[Any], torch.Tensor],
    largest: Any,
    others: Sequence[Any],
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    weight: float = 1.0,
) -> list[torch.Tensor]:
    """Add up the gradients of one step: the largest network learns from the labels, all others from its outputs.

    Each network's graph is freed before the next one runs.

    Args:
        run: a sub-network -> its logits (batch, classes) on the step's images.
        largest: the sub-network that sees labels.
        others: such as the smallest and two random ones.
        labels: (batch,) class indices.
        label_smoothing: of the largest one's loss.
        temperature: of the distillation, see `soft_target_loss`.
        weight: factor of the gradients of all but the largest, such as `DelayedShrinking.weight`; at 0 they are not
            run.

    Returns:
        The losses, the largest network's first, before `weight`.
    """
    logits = run(largest)
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    loss.backward()
    losses, targets = [loss.detach()], logits.detach()
    for other in others if weight else ():
        loss = soft_target_loss(run(other), targets, temperature)
        (weight * loss).backward()
        losses.append(loss.detach())
    return losses
