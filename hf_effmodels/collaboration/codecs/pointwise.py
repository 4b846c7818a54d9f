"""Fewer channels by a 1×1 convolution, and few bits for each number (MAHPPO, https://arxiv.org/abs/2205.11854)."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..._numbers import check_whole, is_whole


@dataclass(frozen=True)
class QuantizedCode:
    """Whole numbers and the range they stand for.

    Attributes:
        levels: the shape of the code, from 0 to 2^bits - 1.
        low, high: of the whole tensor.
        bits: of each number.
    """

    levels: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    bits: int

    def restore(self) -> torch.Tensor:
        """The numbers again: the lower end of each level's interval, as released."""
        return self.levels * (self.high - self.low) / (2**self.bits - 1) + self.low


def quantize_code(code: torch.Tensor, bits: int) -> QuantizedCode:
    """Even levels between the smallest and the largest number of the whole tensor, a batch included.

    Each number becomes round((2^bits - 1) · its place in the range - 1/2), as released: half a level too low.

    Raises:
        ValueError: bits outside of 1 to 16, or a code that is not finite or has one value only.
    """
    check_whole(1, 16, bits=bits)
    low, high = code.min(), code.max()
    if not (torch.isfinite(low) and torch.isfinite(high) and low < high):
        raise ValueError(
            f"code: its numbers go from {float(low)} to {float(high)}, accepted are finite, different ones."
        )
    levels = ((2**bits - 1) * (code - low) / (high - low) - 0.5).round()
    return QuantizedCode(levels, low, high, bits)


class PointwiseCodec(nn.Module):
    """A 1×1 convolution to fewer channels and one back, both with biases and without activation.

    Args:
        channels: of the features.
        shrink: how many times fewer the code has, at least one.
        bits: of each number that is sent; None sends them as they are (as in training).
    """

    def __init__(self, channels: int, shrink: int, bits: int | None = 8):
        super().__init__()
        if not is_whole(channels, 1) or not is_whole(shrink, 1):
            raise ValueError(f"channels, shrink: got {channels!r} and {shrink!r}, accepted are whole numbers from 1.")
        if bits is not None:
            check_whole(1, 16, bits=bits)
        self.bits = bits
        self.code_channels = max(channels // shrink, 1)
        self.encoder = nn.Sequential(nn.Conv2d(channels, self.code_channels, 1))  # the names of the release
        self.decoder = nn.Sequential(nn.Conv2d(self.code_channels, channels, 1))

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, fewer, height, width)."""
        return self.encoder(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """What the other side computes with; the same shape."""
        code = self.encode(features)
        if self.bits is not None and not self.training:
            code = quantize_code(code, self.bits).restore()
        return self.decoder(code)

    def bits_sent(self, features: torch.Tensor) -> int:
        """Of an image, without the two ends of the range."""
        size = self.code_channels * features.shape[-2] * features.shape[-1]
        return size * (32 if self.bits is None else self.bits)


def reconstruction_loss(restored: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between features and what is left of them, the mean over all numbers."""
    return F.smooth_l1_loss(restored, features)
