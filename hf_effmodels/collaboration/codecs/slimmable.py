"""One encoder of several widths and one decoder (Slimmable Encoders, https://arxiv.org/abs/2306.12691), around
Entropic Student's bottleneck: a device chooses for each image how much it computes and sends."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import nn
from torch.nn import functional as F

from ..._numbers import is_whole
from .entropic import BottleneckShape, CodedFeatures, EntropicBottleneck, decoder_of
from .gdn import DivisiveNorm
from .prior import TabledPrior


class FirstChannels(nn.Conv2d):
    """A convolution of which any number of channels may be used: the first ones, as inputs and as outputs."""

    def forward(self, features: torch.Tensor, out_channels: int | None = None) -> torch.Tensor:
        """(batch, up to in_channels, height, width) -> (batch, out_channels, ...), by default all."""
        weight = self.weight[:out_channels, : features.shape[1]]
        return F.conv2d(features, weight, None, self.stride, self.padding)


class SlimmableBottleneck(nn.Module):
    """Images to features of a quarter of their side, through a code of as many channels as are asked for.

    Width w uses the first 4w, 2w and w channels of the encoder's convolutions and the first w inputs of the decoder's;
    its norms and its prior are its own, since their statistics differ. With one width it is an `EntropicBottleneck`.

    Args:
        widths: channels of the code, different whole numbers from 1.
        target_channels, options: see `BottleneckShape`; encoder channels of one's own go with one width.
    """

    def __init__(self, widths: Sequence[int] = (8, 16, 24), target_channels: int = 256, **options):
        super().__init__()
        self.widths, self.shape = check_widths(widths), BottleneckShape(target_channels, **options)
        if len(self.widths) > 1 and self.shape.encoder_channels is not None:
            raise ValueError(
                f"encoder_channels: got {self.shape.encoder_channels} for {len(self.widths)} widths, accepted with "
                "several are those that follow from the width."
            )
        most = self.widths[-1]
        first, second = self.shape.encoder(most)
        self.convolutions = nn.ModuleList(
            [
                FirstChannels(3, first, 5, stride=2, padding=2, bias=False),
                FirstChannels(first, second, 5, stride=2, padding=2, bias=False),
                FirstChannels(second, most, 2, bias=False),
            ]
        )
        self.norms = nn.ModuleDict(
            {str(w): nn.ModuleList(DivisiveNorm(size) for size in self.shape.encoder(w)) for w in self.widths}
        )
        self.priors = nn.ModuleDict({str(w): self.shape.make_prior(w) for w in self.widths})
        self.decoder = decoder_of(FirstChannels(most, self.shape.decoder[0], 2, padding=1, bias=False), self.shape)
        #: What is told of a code that learns: the likelihoods of its numbers, through which losses hear of them.
        self.likelihoods = nn.Identity()

    @property
    def target_channels(self) -> int:
        """Of the features."""
        return self.shape.target_channels

    def prior(self, width: int | None = None) -> TabledPrior:
        """Of a width, by default the largest."""
        return self.priors[str(self.checked(width))]

    def checked(self, width: int | None) -> int:
        """A width, by default the largest.

        Raises:
            ValueError: it is none of `widths`.
        """
        if width is None:
            return self.widths[-1]
        if isinstance(width, bool) or width not in self.widths:
            raise ValueError(f"width: got {width!r}, accepted are {', '.join(map(str, self.widths))}.")
        return int(width)

    def encoder(self, pixel_values: torch.Tensor, width: int | None = None) -> torch.Tensor:
        """(batch, 3, height, width) -> the code before it is rounded, (batch, width, ...)."""
        width = self.checked(width)
        first, second, last = self.convolutions
        norm, other = self.norms[str(width)]
        sizes = self.shape.encoder(width)
        return last(other(second(norm(first(pixel_values, sizes[0])), sizes[1])), width)

    def forward(
        self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None, *, width: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and the likelihoods of their code; see `EntropicBottleneck.forward`."""
        code, likelihoods = self.prior(width)(self.encoder(pixel_values, width), noise)
        return self.decoder(code), likelihoods

    def at(self, width: int) -> EntropicBottleneck:
        """A bottleneck of one width by itself, of copied weights: what a device that never changes needs."""
        width = self.checked(width)
        alone = EntropicBottleneck(width, **asdict(self.shape)).to(next(self.parameters()))
        state = {}
        for place, norm in zip((1, 3), self.norms[str(width)], strict=True):
            state |= {f"encoder.{place}.{name}": value for name, value in norm.state_dict().items()}
        into_first, into_second = self.shape.encoder(width)
        sizes = (into_first, 3), (into_second, into_first), (width, into_second)
        for place, convolution, (out, into) in zip((0, 2, 4), self.convolutions, sizes, strict=True):
            state[f"encoder.{place}.weight"] = convolution.weight[:out, :into]
        state |= {f"entropy_bottleneck.{n}": v for n, v in self.prior(width).state_dict().items()}
        state |= {f"decoder.{n}": v for n, v in self.decoder.state_dict().items()}
        state["decoder.0.weight"] = self.decoder[0].weight[:, :width]
        alone.load_state_dict(state)
        return alone.train(self.training)

    def update(self) -> None:
        """Make the tables of all widths."""
        for prior in self.priors.values():
            prior.update()

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor, width: int | None = None) -> CodedFeatures:
        """The bytes of (batch, 3, height, width)."""
        code = self.encoder(pixel_values, width)
        return CodedFeatures(tuple(self.prior(width).compress(code)), tuple(code.shape[-2:]))

    @torch.no_grad()
    def decode(self, coded: CodedFeatures, width: int | None = None) -> torch.Tensor:
        """The features of these bytes."""
        return self.decoder(self.prior(width).decompress(list(coded.streams), coded.shape))


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """The widths in order.

    Raises:
        ValueError: none, the same twice, or one that is no whole number from 1.
    """
    listed = isinstance(widths, Sequence) and not isinstance(widths, str)
    if not listed or not widths or not all(is_whole(w, 1) for w in widths) or len(set(widths)) < len(widths):
        raise ValueError(f"widths: got {widths!r}, accepted is a list of different whole numbers from 1.")
    return tuple(sorted(widths))
