"""Stochastic depth (https://arxiv.org/abs/1603.09382)."""

import torch
from torch import nn


class DropPath(nn.Module):
    """Zeroes the whole residual branch of a sample with probability `rate` in training and scales up the others.

    Shapes: (batch, ...) in and out.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = float(rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return hidden_states
        keep = 1 - self.rate
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
        return hidden_states * hidden_states.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"
