"""The grid: b-bit integers in [-2^(b-1), 2^(b-1) - 1], steps and zero points of weights and activations.

The grid is that of compressed-tensors, so that what is computed here is what anybody computes from the files.
"""

from typing import NamedTuple

import torch

#: Steps are at least this, so that a row of zeros has one, too.
SMALLEST_STEP = 1e-8


class Grid(NamedTuple):
    """Steps and zero points of a weight, (rows, groups); zero points are whole numbers, 0 where it is symmetric."""

    scale: torch.Tensor
    zero_point: torch.Tensor


def integer_range(bits: int) -> tuple[int, int]:
    """Smallest and largest integer of `bits` bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def clip(values: torch.Tensor, bits: int) -> torch.Tensor:
    """`values` cut to the range of `bits` bits. One on the border passes half of its gradient, one outside none."""
    low, high = (values.new_tensor(float(end)) for end in integer_range(bits))
    return torch.minimum(torch.maximum(values, low), high)


def split_groups(weight: torch.Tensor, group_size: int | None) -> torch.Tensor:
    """(rows, inputs) -> (rows, groups, inputs of a group); without a size a row is one group."""
    inputs = weight.shape[-1]
    size = group_size or inputs
    if inputs % size:
        raise ValueError(f"group_size: got {size}, which does not divide the {inputs} inputs of a weight.")
    return weight.reshape(*weight.shape[:-1], inputs // size, size)


def _grid(values: torch.Tensor, bits: int, symmetric: bool) -> Grid:
    """The grid of the last dimension of `values`, which stays with size 1."""
    low, high = integer_range(bits)
    if symmetric:
        scale = 2 * values.abs().amax(-1, keepdim=True) / (2**bits - 1)
        scale = scale.clamp(min=SMALLEST_STEP)
        return Grid(scale, torch.zeros_like(scale))
    smallest = values.amin(-1, keepdim=True).clamp(max=0)
    scale = ((values.amax(-1, keepdim=True).clamp(min=0) - smallest) / (2**bits - 1)).clamp(min=SMALLEST_STEP)
    return Grid(scale, (low - smallest / scale).round().clamp(low, high))


def weight_grid(weight: torch.Tensor, bits: int, group_size: int | None = None, symmetric: bool = True) -> Grid:
    """The grid that holds the largest values of each row, or of each group of `group_size` inputs of a row.

    Symmetric: s = 2 max|w| / (2^b - 1). Asymmetric: the range [min(w, 0), max(w, 0)] in 2^b - 1 steps.

    Args:
        weight: (rows, inputs)
    """
    scale, zero_point = _grid(split_groups(weight, group_size), bits, symmetric)
    return Grid(scale.squeeze(-1), zero_point.squeeze(-1))


def quantize(weight: torch.Tensor, grid: Grid, bits: int) -> torch.Tensor:
    """(rows, inputs): the integers next to the weight (as floating point numbers), ties to even."""
    groups = split_groups(weight, weight.shape[-1] // grid.scale.shape[-1])
    integers = (groups / grid.scale.unsqueeze(-1)).round() + grid.zero_point.unsqueeze(-1)
    return integers.clamp(*integer_range(bits)).reshape(weight.shape)


def dequantize(integers: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(rows, inputs): the values that the integers stand for, (q - zero point) s."""
    groups = split_groups(integers, integers.shape[-1] // grid.scale.shape[-1])
    return ((groups - grid.zero_point.unsqueeze(-1)) * grid.scale.unsqueeze(-1)).reshape(integers.shape)


def straight_through(value: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """`rounded`, exactly, with the gradient of `value`."""
    return rounded.detach() + (value - value.detach())


class Activations(NamedTuple):
    """Quantised activations: integers and what they stand for, (..., channels), and the grid of each token."""

    integers: torch.Tensor
    dequantized: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor


def quantize_activations(activations: torch.Tensor, bits: int, symmetric: bool = True) -> Activations:
    """Each token, (..., channels), on a grid of its own, as it is computed (dynamic).

    Gradients pass the rounding unchanged, and stop at values that the grid cuts off; the grid itself is a constant.
    """
    scale, zero_point = _grid(activations.detach(), bits, symmetric)
    steps = activations / scale
    integers = clip(straight_through(steps, steps.round()) + zero_point, bits)
    return Activations(integers, (integers - zero_point) * scale, scale, zero_point)
