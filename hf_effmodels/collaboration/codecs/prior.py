"""How likely each number of a code is, learnt for each channel (the factorised prior of
https://arxiv.org/abs/1802.01436, appendix 6.1)."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from ..._numbers import check_whole
from .gdn import lower_bound
from .rans import decode, encode, quantized_distribution

_WIDTHS = (1, 3, 3, 3, 3, 1)
_SCALE = 10.0
#: No number is less likely than this, and this much lies outside of `quantiles`.
LEAST_LIKELIHOOD = TAIL_MASS = 1e-9
_TABLES = ("quantized_cdf", "cdf_length", "offset")

#: CompressAI's names of a prior's weights, of its older releases, and of tables -> those here; and its constants.
COMPRESSAI = (
    (r"\._matrix(\d)$", r".matrices.\1"),
    (r"\._bias(\d)$", r".biases.\1"),
    (r"\._factor(\d)$", r".factors.\1"),
    (r"\._(quantized_cdf|offset|cdf_length)$", r".\1"),
)
COMPRESSAI_CONSTANTS = r"(\.pedestal|lower_bound(_scale)?\.bound|entropy_bottleneck\.target)$"


class TabledPrior(nn.Module):
    """What priors share: tables by which numbers are coded, `quantized_cdf`, `cdf_length`, `offset`.

    They are empty until `update` makes them, and saved with the weights, since both sides need the very same ones:
    rounding may differ between machines.

    Args:
        tables: how many.
    """

    #: Name of what `before_bytes` gives, and `decompress`.
    sent = "code"

    def __init__(self, tables: int):
        super().__init__()
        self.tables = tables
        for name in _TABLES:
            self.register_buffer(name, torch.empty(0, dtype=torch.int32))
        self.register_load_state_dict_pre_hook(_make_room_for_tables)

    @property
    def table_length(self) -> int:
        """Of the longest table that depends on what has been learnt; see `make_room`."""
        return self.quantized_cdf.shape[1]

    def make_room(self, length: int) -> None:
        """Tables of this length, to be loaded into."""
        sizes = dict(zip(_TABLES, ((self.tables, length), (self.tables,), (self.tables,)), strict=True))
        for name, size in sizes.items():
            setattr(self, name, torch.zeros(size, dtype=torch.int32, device=next(self.parameters()).device))

    def coding_tables(self) -> tuple[list[list[int]], list[int]]:
        """Cumulated frequencies and offsets, as `rans.encode` takes them.

        Raises:
            ValueError: `update` has not made them yet.
        """
        if not self.cdf_length.numel():
            raise ValueError("update() makes the tables that coding needs; call it after training.")
        rows = zip(self.quantized_cdf.tolist(), self.cdf_length.tolist(), strict=True)
        return [row[:length] for row, length in rows], self.offset.tolist()

    def put_tables(self, *tables: torch.Tensor) -> None:
        """Frequencies, lengths and offsets."""
        device = next(self.parameters()).device
        for name, table in zip(_TABLES, tables, strict=True):
            setattr(self, name, table.to(device))


class FactorizedPrior(TabledPrior):
    """A distribution of each channel's numbers, and the tables by which they are coded.

    The logit of the cumulated density is a network that only rises: ℓ ← softplus(M_i) ℓ + b_i, then, but for the last,
    ℓ ← ℓ + tanh(f_i) tanh(ℓ). `quantiles` (channels, 1, 3) are the low end, the median and the high end.
    """

    def __init__(self, channels: int):
        check_whole(1, channels=channels)
        super().__init__(channels)
        self.channels = channels
        scale = _SCALE ** (1 / (len(_WIDTHS) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for before, after in zip(_WIDTHS[:-1], _WIDTHS[1:], strict=True):
            value = math.log(math.expm1(1 / scale / after))
            self.matrices.append(nn.Parameter(torch.full((channels, after, before), value)))
            self.biases.append(nn.Parameter(torch.empty(channels, after, 1).uniform_(-0.5, 0.5)))
        for width in _WIDTHS[1:-1]:
            self.factors.append(nn.Parameter(torch.zeros(channels, width, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-_SCALE, 0.0, _SCALE]).repeat(channels, 1, 1))

    def logits(self, values: torch.Tensor, detached: bool = False) -> torch.Tensor:
        """(channels, 1, n) -> the logit of the cumulated density there; `detached`: the density does not learn."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            factor = self.factors[i] if i < len(self.factors) else None
            if detached:
                matrix, bias, factor = matrix.detach(), bias.detach(), None if factor is None else factor.detach()
            values = F.softplus(matrix) @ values + bias
            if factor is not None:
                values = values + factor.tanh() * values.tanh()
        return values

    def _between(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        low, high = self.logits(values - 0.5), self.logits(values + 0.5)
        return high.sigmoid() - low.sigmoid(), low, high

    def likelihoods(self, code: torch.Tensor) -> torch.Tensor:
        """(batch, channels, ...) -> the same: the probability of a number within 1/2 of each, 1e-9 at least."""
        by_channel = code.transpose(0, 1).reshape(self.channels, 1, -1)
        found, *_ = self._between(by_channel)
        found = lower_bound(found, LEAST_LIKELIHOOD)
        return found.reshape(code.shape[1], code.shape[0], *code.shape[2:]).transpose(0, 1)

    def medians(self, ndim: int = 4) -> torch.Tensor:
        """(1, channels, 1, ...), without gradient."""
        return self.quantiles[:, 0, 1].detach().reshape(1, -1, *[1] * (ndim - 2))

    def forward(self, code: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The code as the other side gets it, and its likelihoods.

        Args:
            code: (batch, channels, ...).
            noise: the same, from -1/2 to 1/2, is added instead of rounding; in training it is drawn where not given.
        """
        if noise is None and self.training:
            noise = torch.rand_like(code) - 0.5
        code = self.round(code) if noise is None else code + noise
        return code, self.likelihoods(code)

    def round(self, code: torch.Tensor) -> torch.Tensor:
        """To whole numbers around each channel's median."""
        medians = self.medians(code.ndim)
        return (code - medians).round() + medians

    before_bytes = round

    def auxiliary_loss(self) -> torch.Tensor:
        """How far `quantiles` are from where they should be; only they learn by it."""
        target = math.log(2 / TAIL_MASS - 1)
        found = self.logits(self.quantiles, detached=True)
        return (found - found.new_tensor([-target, 0.0, target])).abs().sum()

    # Coding

    @torch.no_grad()
    def update(self) -> None:
        """Make the tables out of what has been learnt; computed in float32 on the CPU."""
        prior = self._on_cpu()
        low, medians, high = (prior.quantiles[:, 0, i] for i in range(3))
        below = (medians - low).ceil().int().clamp_min(0)
        above = (high - medians).ceil().int().clamp_min(0)
        lengths = below + above + 1
        longest = int(lengths.max())
        values = torch.arange(longest) + (medians - below)[:, None]
        probabilities, lower, upper = (t[:, 0] for t in prior._between(values[:, None]))
        outside = lower[:, :1].sigmoid() + (-upper[:, -1:]).sigmoid()
        table = torch.zeros(self.channels, longest + 2, dtype=torch.int32)
        for channel, length in enumerate(lengths.tolist()):
            own = torch.cat([probabilities[channel, :length], outside[channel]]).clamp_min(0)
            table[channel, : length + 2] = torch.tensor(quantized_distribution(own.tolist()), dtype=torch.int32)
        self.put_tables(table, lengths + 2, -below)

    def _on_cpu(self) -> "FactorizedPrior":
        copy = FactorizedPrior(self.channels)
        for own, other in zip(copy.parameters(), self.parameters(), strict=True):
            own.data.copy_(other.detach().float().cpu())
        return copy

    @torch.no_grad()
    def compress(self, code: torch.Tensor, *, compressai: bool = False) -> list[bytes]:
        """A byte string for each image of (batch, channels, ...).

        Args:
            compressai: as CompressAI writes them, some five bytes longer.
        """
        ends, offsets = self.coding_tables()
        if not torch.isfinite(code).all():
            raise ValueError("code: it is not finite.")
        symbols = (code - self.medians(code.ndim)).round().long()
        shape = code.shape[1:]
        return [
            encode(row.flatten().tolist(), self._channel_of_each(shape), ends, offsets, compressai=compressai)
            for row in symbols
        ]

    @torch.no_grad()
    def decompress(self, streams: list[bytes], shape: tuple[int, ...], *, compressai: bool = False) -> torch.Tensor:
        """(batch, channels, *shape), exactly what `round` made of it.

        Raises:
            ValueError: bytes of another prior or shape, or broken ones.
        """
        ends, offsets = self.coding_tables()
        whole = (self.channels, *shape)
        rows = [
            decode(stream, self._channel_of_each(whole), ends, offsets, compressai=compressai) for stream in streams
        ]
        medians = self.medians(len(shape) + 2)
        symbols = torch.tensor(rows, device=medians.device).reshape(len(streams), self.channels, *shape)
        return symbols.to(medians.dtype) + medians

    def _channel_of_each(self, shape: tuple[int, ...]) -> Iterator[int]:
        # One by one: how many there are is said by whoever sends, and a stream that is too short ends it early.
        return itertools.chain.from_iterable(itertools.repeat(c, math.prod(shape[1:])) for c in range(self.channels))


def _make_room_for_tables(prior: TabledPrior, state_dict, prefix: str, *rest) -> None:
    """Tables are as long as the code is wide, which only the file knows."""
    for name in _TABLES:
        given = state_dict.get(prefix + name)
        if given is not None and given.shape[:1].numel() in (0, prior.tables):
            setattr(prior, name, getattr(prior, name).new_empty(given.shape))


def bits(likelihoods: torch.Tensor) -> torch.Tensor:
    """(batch,): what an ideal coder needs for each image, -Σ log₂ p."""
    return -likelihoods.log2().flatten(1).sum(1)


def rate_loss(likelihoods: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
    """Bits of a batch.

    Args:
        likelihoods: (batch, channels, height, width).
        reduction: `sum`, `batchmean` (per image), or `mean` (per place of the code).
    """
    total = bits(likelihoods).sum()
    parts = {"sum": 1, "batchmean": likelihoods.shape[0], "mean": likelihoods.shape[0] * likelihoods[0, 0].numel()}
    if reduction not in parts:
        raise ValueError(f"reduction: got {reduction!r}, accepted are {', '.join(parts)}.")
    return total / parts[reduction]
