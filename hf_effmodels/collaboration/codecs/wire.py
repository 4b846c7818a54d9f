"""Features as the tensors that are sent, and back: as they are, with few bits, or with fewer channels, too."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import nn

from ..._numbers import check_whole
from .entropic import EntropicBottleneck
from .pointwise import PointwiseCodec
from .slimmable import SlimmableBottleneck

Tensors = dict[str, torch.Tensor]


class Codec(nn.Module):
    """What all codecs share: a part that computes on tensors alone, which a graph can hold, and one that makes bytes.

    `encode` is `pack` of `between`, `decode` is `restore` of `unpack`.
    """

    def encode(self, features: torch.Tensor, **options) -> Tensors:
        """(batch, ...) -> what is sent."""
        return self.pack(self.between(features, **options), **options)

    def decode(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Features of the `shape` and `dtype` that the network expects.

        Raises:
            ValueError: tensors of other names, shapes or kinds.
        """
        return self.restore(self.unpack(sent, shape, dtype), shape, dtype)


class RawCodec(Codec):
    """Features as they are: both halves together give the very numbers of the whole."""

    kind = "raw"

    def settings(self) -> dict:
        """What `codec_from` builds it from."""
        return {}

    def between(self, features: torch.Tensor) -> Tensors:
        return {"features": features}

    def pack(self, tensors: Tensors) -> Tensors:
        return {"features": tensors["features"].contiguous()}

    def unpack(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensors:
        return _take(sent, {"features": (shape, dtype)})

    def restore(self, tensors: Tensors, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return tensors["features"]


class UniformCodec(Codec):
    """`bits` for each number: even levels between the smallest and the largest number of each image.

    Args:
        bits: 1 to 8.
    """

    kind = "uniform"

    def __init__(self, bits: int = 8):
        super().__init__()
        check_whole(1, 8, bits=bits)
        self.bits = bits

    def settings(self) -> dict:
        return {"bits": self.bits}

    def between(self, features: torch.Tensor) -> Tensors:
        """A level for each number, (batch, numbers), and the ends of each image's range."""
        flat = features.float().flatten(1)
        low, high = flat.amin(1), flat.amax(1)
        step = ((high - low) / (2**self.bits - 1)).clamp_min(torch.finfo(torch.float32).tiny)
        levels = ((flat - low[:, None]) / step[:, None]).round().clamp(0, 2**self.bits - 1).to(torch.uint8)
        return {"levels": levels, "low": low, "high": high}

    def pack(self, tensors: Tensors) -> Tensors:
        low, high = tensors["low"], tensors["high"]
        if not (torch.isfinite(low) & torch.isfinite(high)).all():
            raise ValueError("features: they are not finite.")
        if not torch.isfinite(high - low).all():
            raise ValueError("features: smallest and largest are too far apart for float32.")
        return {"levels": _pack(tensors["levels"], self.bits), "low": low, "high": high}

    def unpack(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensors:
        count = math.prod(shape[1:])
        expected = {
            "levels": ((shape[0], math.ceil(count * self.bits / 8)), torch.uint8),
            "low": ((shape[0],), torch.float32),
            "high": ((shape[0],), torch.float32),
        }
        levels, low, high = _take(sent, expected).values()
        if not (torch.isfinite(high - low) & (low <= high)).all():
            raise ValueError("low, high: accepted are finite numbers in order, a finite distance apart.")
        return {"levels": _unpack(levels, self.bits, count), "low": low, "high": high}

    def restore(self, tensors: Tensors, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        levels, low, high = (tensors[name] for name in ("levels", "low", "high"))
        restored = low[:, None] + levels.to(low) * ((high - low) / (2**self.bits - 1))[:, None]
        return restored.reshape(-1, *shape[1:]).to(dtype)


class ChannelCodec(Codec):
    """MAHPPO's 1×1 convolutions around a `UniformCodec`, for features (batch, channels, height, width).

    Args:
        channels: of the features.
        shrink: how many times fewer are sent.
        bits: of each number.
    """

    kind = "channels"

    def __init__(self, channels: int, shrink: int, bits: int = 8):
        super().__init__()
        self.shrink, self.channels = shrink, channels
        self.quantizer = UniformCodec(bits)
        self.codec = PointwiseCodec(channels, shrink, bits=None)

    def settings(self) -> dict:
        return {"channels": self.channels, "shrink": self.shrink, "bits": self.quantizer.bits}

    def between(self, features: torch.Tensor) -> Tensors:
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ValueError(
                f"features: got {tuple(features.shape)}, accepted are (batch, {self.channels}, height, width)."
            )
        return self.quantizer.between(self.codec.encode(_as_computed(self.codec, features)))

    def pack(self, tensors: Tensors) -> Tensors:
        return self.quantizer.pack(tensors)

    def unpack(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensors:
        return self.quantizer.unpack(sent, self._code_shape(shape), dtype)

    def restore(self, tensors: Tensors, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        code = self.quantizer.restore(tensors, self._code_shape(shape), _precision(self.codec))
        return self.codec.decoder(code).to(dtype)

    def _code_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], self.codec.code_channels, *shape[2:])


class EntropicCodec(Codec):
    """Entropic Student's bottleneck: its encoder stands in the place of the whole head, its decoder before the tail.

    For features (batch, target_channels, height / 4, width / 4) of images (batch, 3, height, width).

    Args:
        channels, target_channels, options: see `EntropicBottleneck`.
    """

    kind = "entropic"
    #: It encodes images, not what the network makes of them.
    takes_images = True

    def __init__(self, channels: int = 24, target_channels: int = 256, **options):
        super().__init__()
        self.channels, self.target_channels = channels, target_channels
        self.bottleneck = EntropicBottleneck(channels, target_channels, **options)

    @classmethod
    def of(cls, bottleneck: EntropicBottleneck) -> "EntropicCodec":
        """Around a trained bottleneck, of which `entropy_bottleneck.update()` has made the tables."""
        codec = cls(bottleneck.encoder[-1].out_channels, **asdict(bottleneck.shape))
        codec.bottleneck = bottleneck
        return codec

    def settings(self) -> dict:
        return {"channels": self.channels, "target_channels": self.target_channels, **self.bottleneck.shape.settings()}

    def between(self, pixel_values: torch.Tensor) -> Tensors:
        """The code, (batch, channels, ...), as far as it is rounded before it is made bytes."""
        prior = self.bottleneck.entropy_bottleneck
        return {prior.sent: prior.before_bytes(self.bottleneck.encoder(_as_computed(self.bottleneck, pixel_values)))}

    def pack(self, tensors: Tensors) -> Tensors:
        prior = self.bottleneck.entropy_bottleneck
        return _joined(prior.compress(tensors[prior.sent]))

    def unpack(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensors:
        _check_maps(shape, self.target_channels)
        prior, size = self.bottleneck.entropy_bottleneck, (shape[2] - 1, shape[3] - 1)
        return {prior.sent: prior.decompress(list(_streams(sent, shape[0])), size)}

    def restore(self, tensors: Tensors, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self.bottleneck.decoder(tensors[self.bottleneck.entropy_bottleneck.sent]).to(dtype)


def _joined(streams: Sequence[bytes]) -> Tensors:
    """Byte strings one after the other, the length of each, and a checksum of all: the strings have none."""
    joined = b"".join(streams)
    return {
        "streams": torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else torch.empty(0).byte(),
        "lengths": torch.tensor([len(stream) for stream in streams]),
        "check": torch.tensor([zlib.crc32(joined)]),
    }


def _streams(sent: Mapping[str, torch.Tensor], images: int) -> tuple[bytes, ...]:
    """What `_joined` was given.

    Raises:
        ValueError: bytes, lengths or a checksum that do not belong together.
    """
    size = sent["streams"].numel() if "streams" in sent else 0
    expected = {
        "streams": ((size,), torch.uint8),
        "lengths": ((images,), torch.int64),
        "check": ((1,), torch.int64),
    }
    joined, lengths, check = _take(sent, expected).values()
    if not ((lengths >= 0) & (lengths <= size)).all() or int(lengths.sum()) != size:
        raise ValueError(f"lengths: got {lengths.tolist()}, accepted are those of {size} bytes.")
    whole, streams = joined.cpu().numpy().tobytes(), []
    if zlib.crc32(whole) != int(check):
        raise ValueError("streams: they have been damaged on their way; the checksum is another one.")
    for length in lengths.tolist():
        streams.append(whole[:length])
        whole = whole[length:]
    return tuple(streams)


class SlimmableCodec(Codec):
    """`EntropicCodec` with an encoder of several widths: each request says which one it was made by.

    Args:
        widths, target_channels, options: see `SlimmableBottleneck`.
    """

    kind = "slimmable"
    takes_images = True

    def __init__(self, widths: Sequence[int] = (8, 16, 24), target_channels: int = 256, **options):
        super().__init__()
        self.bottleneck = SlimmableBottleneck(widths, target_channels, **options)

    @classmethod
    def of(cls, bottleneck: SlimmableBottleneck) -> "SlimmableCodec":
        """Around a trained bottleneck, whose `update()` has made the tables."""
        codec = cls(bottleneck.widths, **asdict(bottleneck.shape))
        codec.bottleneck = bottleneck
        return codec

    @property
    def widths(self) -> tuple[int, ...]:
        """To choose from."""
        return self.bottleneck.widths

    def settings(self) -> dict:
        shape = self.bottleneck.shape
        return {"widths": list(self.widths), "target_channels": shape.target_channels, **shape.settings()}

    def between(self, pixel_values: torch.Tensor, width: int | None = None) -> Tensors:
        """The code by an encoder of `width`, by default the largest, as far as it is rounded before it is bytes."""
        prior = self.bottleneck.prior(width)
        latent = self.bottleneck.encoder(_as_computed(self.bottleneck, pixel_values), width)
        return {prior.sent: prior.before_bytes(latent)}

    def pack(self, tensors: Tensors, width: int | None = None) -> Tensors:
        width = self.bottleneck.checked(width)
        prior = self.bottleneck.prior(width)
        return {**_joined(prior.compress(tensors[prior.sent])), "width": torch.tensor([width])}

    def unpack(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensors:
        _check_maps(shape, self.bottleneck.target_channels)
        sent = dict(sent)
        width = sent.pop("width", None)
        if width is None or width.dtype != torch.int64 or tuple(width.shape) != (1,):
            raise ValueError("payload: width must be one whole number.")
        prior, size = self.bottleneck.prior(int(width)), (shape[2] - 1, shape[3] - 1)
        return {prior.sent: prior.decompress(list(_streams(sent, shape[0])), size)}

    def restore(self, tensors: Tensors, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self.bottleneck.decoder(tensors[self.bottleneck.prior().sent]).to(dtype)


def _check_maps(shape: tuple[int, ...], target_channels: int) -> None:
    if len(shape) != 4 or shape[1] != target_channels or min(shape[2:]) < 2:
        raise ValueError(
            f"codec: the network expects features {shape}, it decodes {target_channels} channels of maps."
        )


CODECS = {codec.kind: codec for codec in (RawCodec, UniformCodec, ChannelCodec, EntropicCodec, SlimmableCodec)}


def codec_from(kind: str, settings: Mapping) -> nn.Module:
    """A codec by its `kind` and its `settings()`."""
    if kind not in CODECS:
        raise ValueError(f"codec: got {kind!r}, accepted are {', '.join(CODECS)}.")
    try:
        return CODECS[kind](**settings)
    except TypeError as error:
        raise ValueError(f"codec: {kind} does not take {dict(settings)}.") from error


def _precision(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _as_computed(network: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """In the precision of a code, which need not be that of the network around it."""
    return values.to(_precision(network))


def _take(sent: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> Tensors:
    if set(sent) != set(expected):
        raise ValueError(f"payload: got the tensors {sorted(sent)}, accepted are {sorted(expected)}.")
    for name, (shape, dtype) in expected.items():
        if tuple(sent[name].shape) != tuple(shape) or sent[name].dtype != dtype:
            found = f"{sent[name].dtype} {tuple(sent[name].shape)}"
            raise ValueError(f"payload: {name} is {found}, expected {dtype} {tuple(shape)}.")
    return {name: sent[name] for name in expected}


def _pack(levels: torch.Tensor, bits: int) -> torch.Tensor:
    """(batch, n) of `bits` bits each -> (batch, bytes)."""
    if bits == 8:
        return levels
    single = np.unpackbits(levels.cpu().numpy()[..., None], axis=-1)[..., 8 - bits :]
    return torch.from_numpy(np.packbits(single.reshape(len(levels), -1), axis=-1))


def _unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    if bits == 8:
        return packed
    single = np.unpackbits(packed.cpu().numpy(), axis=-1)[:, : count * bits].reshape(len(packed), count, bits)
    return torch.from_numpy(np.packbits(single, axis=-1)[..., 0] >> (8 - bits))
