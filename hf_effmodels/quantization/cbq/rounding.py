"""LoRA-Rounding: whether each weight is rounded up or down is learned, as a matrix of low rank."""

import torch

from .grid import Grid, clip, split_groups, straight_through

#: The sigmoid is stretched to (GAMMA, ZETA) and cut to [0, 1] (https://arxiv.org/abs/2004.10568).
ZETA, GAMMA = 1.1, -0.1
#: Fractions are kept off 0 and 1, where the inverse of the sigmoid ends.
MARGIN = 1e-4


def rectified_sigmoid(v: torch.Tensor) -> torch.Tensor:
    """clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1)"""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(delta: torch.Tensor) -> torch.Tensor:
    delta = (delta.clamp(MARGIN, 1 - MARGIN) - GAMMA) / (ZETA - GAMMA)
    return torch.log(delta / (1 - delta))


def fractions(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(rows, inputs): V at which the soft weight is the weight: what `weight` is above the integer below it."""
    steps = split_groups(weight, weight.shape[-1] // grid.scale.shape[-1]) / grid.scale.unsqueeze(-1)
    return inverse_rectified_sigmoid(steps - steps.floor()).reshape(weight.shape)


def round_by(weight: torch.Tensor, grid: Grid, delta: torch.Tensor, bits: int) -> torch.Tensor:
    """(rows, inputs) integers clip(floor(w / s) + delta + zero point); gradients pass the floor unchanged."""
    size = weight.shape[-1] // grid.scale.shape[-1]
    steps = split_groups(weight, size) / grid.scale.unsqueeze(-1)
    integers = straight_through(steps, steps.floor()) + split_groups(delta, size) + grid.zero_point.unsqueeze(-1)
    return clip(integers, bits).reshape(weight.shape)


def undecided(delta: torch.Tensor, beta: float) -> torch.Tensor:
    """L_com = sum(1 - |2 delta - 1|^beta): 0 where every delta is 0 or 1."""
    return (1 - (2 * delta - 1).abs() ** beta).sum()


def harden(delta: torch.Tensor) -> torch.Tensor:
    """delta >= 0.5"""
    return (delta >= 0.5).to(delta.dtype)
