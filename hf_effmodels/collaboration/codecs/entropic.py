"""The bottleneck of Entropic Student (https://arxiv.org/abs/2108.11898): a small encoder in the place of a network's
first layers, a decoder that imitates their output, and a prior that says how many bits the code takes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import nn

from ..._numbers import check_whole, is_whole
from .gdn import DivisiveNorm
from .hyperprior import HyperPrior
from .kinds import PRIORS, check_prior
from .prior import COMPRESSAI, COMPRESSAI_CONSTANTS, FactorizedPrior, TabledPrior, rate_loss


@dataclass(frozen=True)
class BottleneckShape:
    """What a bottleneck is made of, beside the channels of its code.

    Attributes:
        target_channels: of the features, as the network's first stage has them (256 for a ResNet-50).
        prior: one of `PRIORS`.
        hyper_channels: of a hyperprior's side code.
        encoder_channels: of the encoder's first and second convolution; by default four times and twice the code's.
        decoder_channels: of the decoder's first and second; by default twice and once those of the features.
    """

    target_channels: int = 256
    prior: str = PRIORS[0]
    hyper_channels: int = 16
    encoder_channels: tuple[int, int] | None = None
    decoder_channels: tuple[int, int] | None = None

    def __post_init__(self):
        check_prior(self.prior)
        check_whole(1, target_channels=self.target_channels, hyper_channels=self.hyper_channels)
        for name in ("encoder_channels", "decoder_channels"):
            given = getattr(self, name)
            if given is None:
                continue
            if not isinstance(given, list | tuple) or len(given) != 2 or not all(is_whole(n, 1) for n in given):
                raise ValueError(f"{name}: got {given!r}, accepted are two whole numbers from 1.")
            object.__setattr__(self, name, tuple(given))

    def encoder(self, channels: int) -> tuple[int, int]:
        """Channels of the encoder's first and second convolution, for a code of `channels`."""
        return self.encoder_channels or (4 * channels, 2 * channels)

    @property
    def decoder(self) -> tuple[int, int]:
        """Channels of the decoder's first and second convolution."""
        return self.decoder_channels or (2 * self.target_channels, self.target_channels)

    def make_prior(self, channels: int) -> TabledPrior:
        """Of a code of `channels`."""
        if self.prior == "factorized":
            return FactorizedPrior(channels)
        return HyperPrior(channels, self.hyper_channels, means=self.prior == "mean_scale_hyperprior")

    def settings(self) -> dict:
        """What differs from the published bottleneck, for files."""
        return {f.name: value for f in fields(self) if (value := _plain(getattr(self, f.name))) != f.default}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


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
        target_channels, options: see `BottleneckShape`.
    """

    def __init__(self, channels: int = 24, target_channels: int = 256, **options):
        super().__init__()
        check_whole(1, channels=channels)
        self.shape = BottleneckShape(target_channels, **options)
        first, second = self.shape.encoder(channels)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, first, 5, stride=2, padding=2, bias=False),
            DivisiveNorm(first),
            nn.Conv2d(first, second, 5, stride=2, padding=2, bias=False),
            DivisiveNorm(second),
            nn.Conv2d(second, channels, 2, bias=False),
        )
        self.decoder = decoder_of(nn.Conv2d(channels, self.shape.decoder[0], 2, padding=1, bias=False), self.shape)
        self.entropy_bottleneck = self.shape.make_prior(channels)

    def forward(
        self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and the likelihoods of their code.

        Args:
            pixel_values: (batch, 3, height, width).
            noise: see the prior's `forward`.
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


def decoder_of(first: nn.Conv2d, shape: BottleneckShape) -> nn.Sequential:
    """The decoder behind its first convolution."""
    one, two = shape.decoder
    return nn.Sequential(
        first,
        DivisiveNorm(one, inverse=True),
        nn.Conv2d(one, two, 2, bias=False),
        DivisiveNorm(two, inverse=True),
        nn.Conv2d(two, shape.target_channels, 2, padding=1, bias=False),
    )


def rate_distortion_loss(
    features: torch.Tensor, target: torch.Tensor, likelihoods: torch.Tensor, beta: float
) -> torch.Tensor:
    """Squared error, summed up, and β times the bits of the batch (the first stage of training)."""
    return (features - target).square().sum() + beta * rate_loss(likelihoods)


#: Names of a bottleneck with a hyperprior.
_HYPERPRIOR = (
    (r"^entropy_bottleneck\.", "entropy_bottleneck.side."),
    (r"^gaussian_conditional\.", "entropy_bottleneck."),
    (r"^g_a\.", "encoder."),
    (r"^g_s\.", "decoder."),
    (r"^h_a\.", "entropy_bottleneck.analysis."),
    (r"^h_s\.", "entropy_bottleneck.synthesis."),
)


def from_official(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The bottleneck's weights under the names here, of CompressAI's older and newer releases alike.

    Args:
        weights: of a bottleneck, or of a whole network, whose `bottleneck_layer.` is taken (with any prefix).
    """
    inside = re.compile(r"^(.*\.)?bottleneck_layer\.")
    if any(inside.match(name) for name in weights):
        weights = {inside.sub("", name): value for name, value in weights.items() if inside.match(name)}
    rules = (*COMPRESSAI, *(_HYPERPRIOR if any(name.startswith("g_a.") for name in weights) else ()))
    found = {}
    for name, value in weights.items():
        if re.search(COMPRESSAI_CONSTANTS, name) or name == "gaussian_conditional.scale_table":
            continue
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = value
    return found
