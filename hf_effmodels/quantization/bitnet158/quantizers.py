"""Weights of -1, 0 and 1 with one scale per tensor, activations of 8 bits with one per token."""

from typing import NamedTuple

import torch

#: Weight scales -> what they are of |W|. For an even count the median is the lower of the two middle values.
SCALES = {"mean": lambda magnitudes: magnitudes.mean(), "median": lambda magnitudes: magnitudes.median()}
EPS = 1e-5


class Quantized(NamedTuple):
    integers: torch.Tensor
    scale: torch.Tensor


def quantize_weight(weight: torch.Tensor, scale: str = "mean", eps: float = EPS) -> Quantized:
    """clip(round(W / (gamma + eps)), -1, 1) and gamma = mean|W| or median|W|, a number; W is about integers · gamma.

    Raises:
        ValueError: `scale` is neither "mean" nor "median".
    """
    if scale not in SCALES:
        raise ValueError(f"scale: got {scale!r}, accepted are {', '.join(map(repr, SCALES))}.")
    gamma = SCALES[scale](weight.abs())
    return Quantized((weight / (gamma + eps)).round().clamp(-1, 1), gamma)


def quantize_activations(activations: torch.Tensor, bits: int = 8, eps: float = EPS) -> Quantized:
    """clip(round(x s), -2^(b-1), 2^(b-1) - 1) with s = (2^(b-1) - 1) / max|x| of each token; x is integers / s.

    Args:
        activations: (..., channels); the scale is (..., 1).
    """
    largest = 2 ** (bits - 1) - 1
    scale = largest / activations.abs().amax(-1, keepdim=True).clamp(min=eps)
    return Quantized((activations * scale).round().clamp(-largest - 1, largest), scale)


def straight_through(value: torch.Tensor, quantized: torch.Tensor, share: float = 1.0) -> torch.Tensor:
    """`quantized` with the gradient of `value`; a `share` below 1 is so far on the way from `value` to it."""
    return torch.lerp(value.detach(), quantized.detach(), share) + (value - value.detach())
