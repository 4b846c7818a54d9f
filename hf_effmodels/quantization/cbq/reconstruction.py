"""The loss of a window of blocks, and the windows."""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Reconstruction(NamedTuple):
    total: torch.Tensor
    l2: torch.Tensor
    kld: torch.Tensor


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, kld_weight: float = 1.0) -> Reconstruction:
    """||target - output||² + KL(softmax(target) || softmax(output)) over the hidden dimension, mean over tokens.

    Args:
        output, target: (..., hidden)
    """
    l2 = (output - target).square().sum(-1).mean()
    log_target, log_output = F.log_softmax(target, -1), F.log_softmax(output, -1)
    kld = (log_target.exp() * (log_target - log_output)).sum(-1).mean()
    return Reconstruction(l2 + kld_weight * kld, l2, kld)


def windows(blocks: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """[first block, end) of each window: `size` blocks of which the next window takes the last `overlap` again."""
    if not 0 <= overlap < size:
        raise ValueError(f"overlap: got {overlap}, accepted are 0 to window - 1 = {size - 1}.")
    found, start = [], 0
    while True:
        end = min(start + size, blocks)
        found.append((start, end))
        if end == blocks:
            return found
        start += size - overlap
