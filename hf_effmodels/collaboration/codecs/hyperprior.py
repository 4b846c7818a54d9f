"""How likely each number of a code is, told by a second, smaller code (the scale hyperprior of
https://arxiv.org/abs/1802.01436, and with means that of https://arxiv.org/abs/1809.02736)."""

import math
from collections.abc import Iterator
from statistics import NormalDist

import torch
from torch import nn
from torch.nn import functional as F

from ..._numbers import check_whole
from .gdn import lower_bound
from .prior import LEAST_LIKELIHOOD, TAIL_MASS, FactorizedPrior, TabledPrior
from .rans import decode, encode, quantized_distribution

#: Deviations for which there are tables: so many, evenly spaced in their logarithm.
LEAST_SCALE, LARGEST_SCALE, SCALES = 0.11, 256.0, 64
_QUANTILE = -NormalDist().inv_cdf(TAIL_MASS / 2)
#: Bytes that say how long the side code's stream is.
_LENGTH = 3


def gaussian_likelihoods(distances: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The probability of a number within 1/2 of one that is `distances` from the mean, for deviations `scales`."""
    distances = distances.abs()  # both ends in the lower tail, where differences are exact
    upper, lower = (torch.special.ndtr((half - distances) / scales) for half in (0.5, -0.5))
    return upper - lower


def scale_table() -> torch.Tensor:
    """The deviations of the tables, ascending."""
    table = torch.linspace(
        math.log(LEAST_SCALE), math.log(LARGEST_SCALE), SCALES, dtype=torch.float64, device="cpu"
    ).exp()
    table[0] = LEAST_SCALE  # to the last bit: most deviations are this one
    return table


class HyperPrior(TabledPrior):
    """A normal distribution for each number of a code: its deviation, and with `means` its mean, are computed from a
    side code of a sixteenth of the places, which is sent first, by a `FactorizedPrior`.

    Analysis and synthesis are those of SC2 Benchmark's hyperprior bottlenecks. What both machines have to agree on is
    computed in float64, image by image: a deviation that falls into another table there than here makes noise of
    what follows.

    Args:
        channels: of the code.
        hyper_channels: of the side code (16 as published).
        means: whether the means are told, too; otherwise they are nought.
    """

    sent = "latent"

    def __init__(self, channels: int, hyper_channels: int = 16, means: bool = False):
        super().__init__(SCALES)
        check_whole(1, channels=channels, hyper_channels=hyper_channels)
        self.channels, self.means = channels, means
        side, wide = hyper_channels, hyper_channels * 3 // 2 if means else hyper_channels
        self.analysis = nn.Sequential(
            nn.Conv2d(channels, side, 5, stride=2, padding=1, bias=False),
            nn.LeakyReLU() if means else nn.ReLU(),
            nn.Conv2d(side, side, 5, stride=2, padding=2, bias=False),
        )
        self.synthesis = nn.Sequential(
            nn.ConvTranspose2d(side, side, 5, stride=2, padding=1, bias=False),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(side, wide, 5, stride=2, padding=1, bias=False),
            nn.LeakyReLU(),
            nn.Conv2d(wide, 2 * channels if means else channels, 5, bias=False),
        )
        self.side = FactorizedPrior(hyper_channels)

    def side_code(self, code: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, hyper_channels, about height / 4, width / 4), not rounded."""
        return self.analysis(code if self.means else code.abs())

    def parameters_of(self, side: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Deviations (0.11 at least) and means of a code of the shape of `like`, told by its side code.

        Raises:
            ValueError: a code whose sides are not one less than multiples of four.
        """
        told = self.synthesis(side)
        if told.shape[2:] != like.shape[2:]:
            raise ValueError(
                f"code: its sides are {tuple(like.shape[2:])}, the hyperprior gives {tuple(told.shape[2:])}; accepted "
                "are images whose sides are multiples of 16."
            )
        scales, means = told.chunk(2, 1) if self.means else (told, torch.zeros_like(told))
        return lower_bound(scales, LEAST_SCALE), means

    def forward(
        self, code: torch.Tensor, noise: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The code as the other side gets it, and the likelihoods of its numbers and those of the side code, (batch,
        all of them).

        Args:
            code: (batch, channels, height, width).
            noise: of code and side code, from -1/2 to 1/2, is added instead of rounding; in training it is drawn.
        """
        side = self.side_code(code)
        if noise is None and self.training:
            noise = torch.rand_like(code) - 0.5, torch.rand_like(side) - 0.5
        if noise is None:
            code, scales, means, side = self._rounded(code)
            own = gaussian_likelihoods(code - means, scales)
        else:
            code, side = code + noise[0], side + noise[1]
            scales, means = self.parameters_of(side, code)
            own = gaussian_likelihoods(code - means, scales)
        own = lower_bound(own.to(code.dtype), LEAST_LIKELIHOOD)
        return code, torch.cat([own.flatten(1), self.side.likelihoods(side).flatten(1)], dim=1)

    def round(self, code: torch.Tensor) -> torch.Tensor:
        """To whole numbers around the means that the side code tells."""
        return self._rounded(code)[0]

    def before_bytes(self, code: torch.Tensor) -> torch.Tensor:
        """What is made bytes: the code as it is, since its side code is made of that."""
        return code

    @torch.no_grad()
    def _rounded(self, code: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Code, deviations, means and side code, as the other side gets them."""
        sides = self.side.round(self.side_code(code))
        told = [self._told(side[None], one[None]) for side, one in zip(sides, code, strict=True)]
        scales, means = (torch.cat(values) for values in zip(*told, strict=True))
        means = means.to(code.dtype)
        return (code - means).round() + means, scales.to(code.dtype), means, sides

    def _told(self, side: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`parameters_of`, of one image and the same wherever it is computed: in float64."""
        values = side.double()
        for layer in self.synthesis:
            if isinstance(layer, nn.ConvTranspose2d):
                values = F.conv_transpose2d(values, layer.weight.double(), None, layer.stride, layer.padding)
            elif isinstance(layer, nn.Conv2d):
                values = F.conv2d(values, layer.weight.double(), None, layer.stride, layer.padding)
            else:
                values = layer(values)
        if values.shape[2:] != like.shape[2:]:
            self.parameters_of(side, like)  # which says so
        scales, means = values.chunk(2, 1) if self.means else (values, torch.zeros_like(values))
        return scales.clamp_min(LEAST_SCALE), means

    def auxiliary_loss(self) -> torch.Tensor:
        """See `FactorizedPrior.auxiliary_loss`: of the side code's prior."""
        return self.side.auxiliary_loss()

    # Coding

    @torch.no_grad()
    def update(self) -> None:
        """Make the tables: of the side code out of what has been learnt, and one for each deviation."""
        self.side.update()
        scales = scale_table()
        centers = (_QUANTILE * scales).ceil().int()
        table = torch.zeros(SCALES, 2 * int(centers[-1]) + 3, dtype=torch.int32)
        for row, (scale, center) in enumerate(zip(scales, centers.tolist(), strict=True)):
            own = gaussian_likelihoods(torch.arange(-center, center + 1, dtype=torch.float64), scale)
            outside = 2 * torch.special.ndtr((-0.5 - center) / scale)
            ends = quantized_distribution([*own.tolist(), float(outside)])
            table[row, : len(ends)] = torch.tensor(ends, dtype=torch.int32)
        self.put_tables(table, 2 * centers + 3, -centers)

    def make_room(self, length: int) -> None:
        """Tables to be loaded into, the side code's of this length."""
        self.side.make_room(length)
        super().make_room(2 * math.ceil(_QUANTILE * LARGEST_SCALE) + 3)

    @property
    def table_length(self) -> int:
        """Of the longest table that has been learnt; see `make_room`."""
        return self.side.table_length

    @torch.no_grad()
    def compress(self, code: torch.Tensor, *, compressai: bool = False) -> list[bytes]:
        """A byte string for each image of (batch, channels, height, width): how long the side code's is (three bytes),
        that, and the code's.

        Args:
            compressai: both as CompressAI writes them.
        """
        ends, offsets = self.coding_tables()
        if not torch.isfinite(code).all():
            raise ValueError("code: it is not finite.")
        sides = self.side_code(code)
        streams = []
        for first, side, one in zip(self.side.compress(sides, compressai=compressai), sides, code, strict=True):
            scales, means = self._told(self.side.round(side[None]), one[None])
            symbols = (one[None] - means.to(code.dtype)).round().long().flatten().tolist()
            second = encode(symbols, _rows(scales), ends, offsets, compressai=compressai)
            streams.append(len(first).to_bytes(_LENGTH, "little") + first + second)
        return streams

    @torch.no_grad()
    def decompress(self, streams: list[bytes], shape: tuple[int, ...], *, compressai: bool = False) -> torch.Tensor:
        """(batch, channels, *shape), exactly what `round` made of it.

        Raises:
            ValueError: bytes of another prior or shape, or broken ones.
        """
        ends, offsets = self.coding_tables()
        weight = self.synthesis[0].weight
        like = torch.empty((1, self.channels, *shape), device="meta")
        # As many places as the analysis gives.
        places = tuple(((side - 3) // 2) // 2 + 1 for side in shape)
        if min(places) < 1:
            raise ValueError(f"shape: got {tuple(shape)}, accepted are sides from 3.")
        codes = []
        for stream in streams:
            length = int.from_bytes(stream[:_LENGTH], "little")
            first, second = stream[_LENGTH : _LENGTH + length], stream[_LENGTH + length :]
            if len(stream) < _LENGTH + length:
                raise ValueError("stream: it ends too early.")
            side = self.side.decompress([first], places, compressai=compressai)
            scales, means = self._told(side, like)
            numbers = decode(second, _rows(scales), ends, offsets, compressai=compressai)
            symbols = torch.tensor(numbers, device=means.device).reshape(means.shape)
            codes.append(symbols.to(weight.dtype) + means.to(weight.dtype))
        return torch.cat(codes) if codes else weight.new_empty((0, self.channels, *shape))


def _rows(scales: torch.Tensor) -> Iterator[int]:
    """Of each number the table of the smallest deviation that is not below its own."""
    return iter(torch.bucketize(scales.flatten(), scale_table().to(scales.device)[:-1]).tolist())
