"""Divisive normalisation of features (https://arxiv.org/abs/1511.06281), in the form that divides by sums of
magnitudes (GDN1, https://arxiv.org/abs/1912.08771)."""

import torch
from torch import nn
from torch.nn import functional as F

from ..._numbers import check_whole

#: Added to what is stored, so that its gradient does not vanish at nought.
PEDESTAL = 2.0**-36
_LEAST_BETA = 1e-6


class _LowerBound(torch.autograd.Function):
    """The larger of a number and a bound; below it the gradient passes only where a step would lift the number."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, bound: float) -> torch.Tensor:
        ctx.save_for_backward(values)
        ctx.bound = bound
        return values.clamp_min(bound)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (values,) = ctx.saved_tensors
        return gradient * ((values >= ctx.bound) | (gradient < 0)), None


def lower_bound(values: torch.Tensor, bound: float) -> torch.Tensor:
    """max(values, bound), of which numbers below the bound can still learn to rise."""
    return _LowerBound.apply(values, bound)


class DivisiveNorm(nn.Module):
    """y_i = x_i / (β_i + Σ_j γ_ij |x_j|) at each place; `inverse` multiplies instead.

    `beta` (channels,) and `gamma` (channels, channels) hold what is learnt: β = max(beta, √(least + p))² - p, and so
    for γ, with p = 2⁻³⁶ and least values of 1e-6 and 0, so both stay positive.
    """

    def __init__(self, channels: int, inverse: bool = False):
        super().__init__()
        check_whole(1, channels=channels)
        self.inverse = inverse
        self.beta = nn.Parameter((torch.ones(channels) + PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + PEDESTAL).sqrt())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> the same."""
        beta = lower_bound(self.beta, (_LEAST_BETA + PEDESTAL) ** 0.5) ** 2 - PEDESTAL
        gamma = lower_bound(self.gamma, PEDESTAL**0.5) ** 2 - PEDESTAL
        norm = F.conv2d(features.abs(), gamma[:, :, None, None], beta)
        return features * norm if self.inverse else features / norm
