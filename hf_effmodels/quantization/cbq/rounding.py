"""LoRA-Rounding: whether each weight is rounded up or down is learned, as a matrix of low rank."""

from typing import NamedTuple

import torch

from .grid import Grid, clip, integer_range, split_groups, straight_through

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


class Pull(NamedTuple):
    """What drives the rounding to a side: the term weight * L_com of the objective, with the exponent beta."""

    weight: float
    beta: float


def rounded_weight(
    weight: torch.Tensor,
    v: torch.Tensor,
    grid: Grid,
    bits: int,
    start: torch.Tensor | None = None,
    hard: bool = True,
    pull: Pull | None = None,
) -> torch.Tensor:
    """(rows, inputs): `dequantize(round_by(weight, grid, delta, bits), grid)`, delta = rectified_sigmoid(v + start).

    The same numbers and gradients with less kept for the latter, and sooner: each step of learning asks for them.

    Args:
        v: (rows, inputs): what is learned.
        start: where it begins; None: at 0.
        hard: compute with the roundings that would be stored, straight through.
        pull: a term whose gradient v gets as well; its value is not computed.
    """
    return _RoundedWeight.apply(v, grid.scale, grid.zero_point, weight, start, bits, hard, pull)


class _RoundedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, scale, zero_point, weight, start, bits, hard, pull):
        share = v.sigmoid() if start is None else (v + start).sigmoid_()
        delta = _stretched(share)
        steps = _divided(weight, scale)
        groups = steps.floor_().add_(_as(harden(delta) if hard else delta, steps)).add_(zero_point.unsqueeze(-1))
        ctx.save_for_backward(share, groups, scale, zero_point, weight)
        ctx.bits, ctx.pull = bits, pull
        values = groups.clamp(*integer_range(bits)).sub_(zero_point.unsqueeze(-1)).mul_(scale.unsqueeze(-1))
        return values.view(weight.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        share, integers, scale, zero_point, weight = ctx.saved_tensors
        low, high = integer_range(ctx.bits)
        grad = _as(grad, integers)
        of_scale = None
        if ctx.needs_input_grad[1]:
            of_scale = integers.clamp(low, high).sub_(zero_point.unsqueeze(-1)).mul_(grad).sum(-1)
        # As `clip`: half of the gradient on the border, none outside.
        of_integers = grad * scale.unsqueeze(-1)
        of_integers.masked_fill_((integers < low) | (integers > high), 0)
        of_integers.mul_(1 - 0.5 * ((integers == low) | (integers == high)))
        if of_scale is not None:
            steps = _divided(weight, scale).div_(scale.unsqueeze(-1))
            of_scale += steps.mul_(of_integers).neg_().sum(-1)
        of_v = of_integers.view(weight.shape)
        if ctx.pull is not None:
            off = _stretched(share).mul_(2).sub_(1)
            sign = off.sign()
            powers = off.abs_().pow_(ctx.pull.beta - 1).mul_(-2 * ctx.pull.beta * ctx.pull.weight)
            of_v.add_(powers.mul_(sign))
        within = share * (ZETA - GAMMA) + GAMMA
        of_v.masked_fill_((within < 0) | (within > 1), 0).mul_(ZETA - GAMMA)
        of_v.mul_(1 - share).mul_(share)
        return of_v, of_scale, None, None, None, None, None, None


def _stretched(share: torch.Tensor) -> torch.Tensor:
    return (share * (ZETA - GAMMA)).add_(GAMMA).clamp_(0, 1)


def _divided(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(rows, groups, inputs of a group): in steps."""
    return split_groups(weight, weight.shape[-1] // scale.shape[-1]) / scale.unsqueeze(-1)


def _as(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    return values.reshape(groups.shape)
