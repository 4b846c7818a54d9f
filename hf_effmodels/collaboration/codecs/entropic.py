"""The bottleneck of Entropic Student (https://arxiv.org/abs/2108.11898): a small encoder in the place of a network's
first layers, a decoder that imitates their output, and a prior that says how many bits the code takes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .gdn import DivisiveNorm
from .prior import FactorizedPrior, rate_loss


@dataclass(frozen=True)
class CodedFeatures:
    """What is sent.

    Attributes:
        streams: a byte string for each image.
        shape: height and width of the code.
    """

    streams: tuple[bytes, ...]
    shape: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        """Of all streams, without the container around them."""
        return sum(map(len, self.streams))


class EntropicBottleneck(nn.Module):
    """Images to features of a quarter of their side, through a code of few bits.

    Args:
        channels: of the code (24 as published).
        target_channels: of the features, as the network's first stage has them (256 for a ResNet-50).
    """

    def __init__(self, channels: int = 24, target_channels: int = 256):
        super().__init__()
        if channels < 1 or target_channels < 1:
            raise ValueError(
                f"channels, target_channels: got {channels} and {target_channels}, accepted are whole numbers from 1."
            )
        wide, target = 4 * channels, target_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, wide, 5, stride=2, padding=2, bias=False),
            DivisiveNorm(wide),
            nn.Conv2d(wide, 2 * channels, 5, stride=2, padding=2, bias=False),
            DivisiveNorm(2 * channels),
            nn.Conv2d(2 * channels, channels, 2, bias=False),
        )
        self.decoder = decoder_of(nn.Conv2d(channels, 2 * target, 2, padding=1, bias=False), target)
        self.entropy_bottleneck = FactorizedPrior(channels)

    def forward(
        self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and the likelihoods of their code.

        Args:
            pixel_values: (batch, 3, height, width).
            noise: see `FactorizedPrior.forward`.
        """
        code, likelihoods = self.entropy_bottleneck(self.encoder(pixel_values), noise)
        return self.decoder(code), likelihoods

    def rounded(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features of the rounded code, through which the encoder does not learn (the second stage of training)."""
        return self.decoder(self.entropy_bottleneck.round(self.encoder(pixel_values)).detach())

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor, *, compressai: bool = False) -> CodedFeatures:
        """The bytes of (batch, 3, height, width); `compressai`: the very ones that CompressAI writes."""
        code = self.encoder(pixel_values)
        streams = self.entropy_bottleneck.compress(code, compressai=compressai)
        return CodedFeatures(tuple(streams), tuple(code.shape[-2:]))

    @torch.no_grad()
    def decode(self, coded: CodedFeatures, *, compressai: bool = False) -> torch.Tensor:
        """The features of these bytes."""
        streams = list(coded.streams)
        return self.decoder(self.entropy_bottleneck.decompress(streams, coded.shape, compressai=compressai))


def decoder_of(first: nn.Conv2d, target_channels: int) -> nn.Sequential:
    """The decoder behind its first convolution, which gives twice the channels of the features."""
    target = target_channels
    return nn.Sequential(
        first,
        DivisiveNorm(2 * target, inverse=True),
        nn.Conv2d(2 * target, target, 2, bias=False),
        DivisiveNorm(target, inverse=True),
        nn.Conv2d(target, target, 2, padding=1, bias=False),
    )


def rate_distortion_loss(
    features: torch.Tensor, target: torch.Tensor, likelihoods: torch.Tensor, beta: float
) -> torch.Tensor:
    """Squared error, summed up, and β times the bits of the batch (the first stage of training)."""
    return (features - target).square().sum() + beta * rate_loss(likelihoods)


_RENAMED = (
    (re.compile(r"entropy_bottleneck\._matrix(\d)$"), r"entropy_bottleneck.matrices.\1"),
    (re.compile(r"entropy_bottleneck\._bias(\d)$"), r"entropy_bottleneck.biases.\1"),
    (re.compile(r"entropy_bottleneck\._factor(\d)$"), r"entropy_bottleneck.factors.\1"),
    (re.compile(r"entropy_bottleneck\._(quantized_cdf|offset|cdf_length)$"), r"entropy_bottleneck.\1"),
)
_CONSTANTS = re.compile(r"(\.pedestal|lower_bound\.bound|entropy_bottleneck\.target)$")


def from_official(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The bottleneck's weights under the names here, of CompressAI's older and newer releases alike.

    Args:
        weights: of a bottleneck, or of a whole network, whose `bottleneck_layer.` is taken (with any prefix).
    """
    inside = re.compile(r"^(.*\.)?bottleneck_layer\.")
    if any(inside.match(name) for name in weights):
        weights = {inside.sub("", name): value for name, value in weights.items() if inside.match(name)}
    found = {}
    for name, value in weights.items():
        if _CONSTANTS.search(name):
            continue
        for pattern, new in _RENAMED:
            name = pattern.sub(new, name)
        found[name] = value
    return found
