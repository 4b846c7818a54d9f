"""Squeeze-and-excitation: channels gated by their global averages (https://arxiv.org/abs/1709.01507)."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """x · hard_sigmoid(W₂ act(W₁ mean(x) + b₁) + b₂), per channel.

    The two 1×1 convolutions of the official code see a single pixel: here they are linear layers, which start faster.

    Shapes: (batch, channels, height, width) in and out.
    """

    def __init__(
        self,
        channels: int,
        reduced_channels: int,
        activation: Callable[[torch.Tensor], torch.Tensor] = F.relu,
    ):
        super().__init__()
        self.activation = activation
        self.reduce = nn.Linear(channels, reduced_channels)
        self.expand = nn.Linear(reduced_channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.gate(hidden_states.mean((2, 3)))

    def gate(self, mean: torch.Tensor) -> torch.Tensor:
        """The gate (batch, channels, 1, 1) from the averages over the map (batch, channels)."""
        # Not F.hardsigmoid: its backward multiplies by a 1/6 rounded to single precision, in every dtype.
        gate = F.relu6(self.expand(self.activation(self.reduce(mean))) + 3) / 6
        return gate[:, :, None, None]
