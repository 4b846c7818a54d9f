"""The cross entropy of the tokens of each sequence, for exact means over any number of batches and processes."""

import torch
from torch.nn import functional as F

#: Labels that are not predicted.
IGNORED = -100


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the cross entropies of each sequence's tokens, in nats, and the number of those tokens.

    Args:
        logits: (batch, length, vocabulary).
        labels: (batch, length); position t is predicted at t - 1, `IGNORED` ones are not.

    Returns:
        Two float64 tensors (batch,).
    """
    labels, sums = labels.to(logits.device), []
    for sequence, targets in zip(logits[:, :-1], labels[:, 1:], strict=True):  # one at a time: logits are large
        losses = F.cross_entropy(sequence.float(), targets, ignore_index=IGNORED, reduction="none")
        sums.append(losses.double().sum())
    return torch.stack(sums), labels[:, 1:].ne(IGNORED).sum(1).double()
