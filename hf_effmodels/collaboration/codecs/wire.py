"""Features as the tensors that are sent, and back: as they are, with few bits, or with fewer channels, too."""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from .entropic import CodedFeatures, EntropicBottleneck
from .pointwise import PointwiseCodec
from .slimmable import SlimmableBottleneck

Tensors = dict[str, torch.Tensor]


class RawCodec(nn.Module):
    """Features as they are: both halves together give the very numbers of the whole."""

    kind = "raw"

    def settings(self) -> dict:
        """What `codec_from` builds it from."""
        return {}

    def encode(self, features: torch.Tensor) -> Tensors:
        """(batch, ...) -> what is sent."""
        return {"features": features.contiguous()}

    def decode(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Features of the `shape` and `dtype` that the network expects.

        Raises:
            ValueError: tensors of other names, shapes or kinds.
        """
        features = _take(sent, {"features": (shape, dtype)})["features"]
        return features


class UniformCodec(nn.Module):
    """`bits` for each number: even levels between the smallest and the largest number of each image.

    Args:
        bits: 1 to 8.
    """

    kind = "uniform"

    def __init__(self, bits: int = 8):
        super().__init__()
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
            raise ValueError(f"bits: got {bits!r}, accepted are 1 to 8.")
        self.bits = bits

    def settings(self) -> dict:
        return {"bits": self.bits}

    def encode(self, features: torch.Tensor) -> Tensors:
        flat = features.float().flatten(1)
        if not torch.isfinite(flat).all():
            raise ValueError("features: they are not finite.")
        low, high = flat.amin(1), flat.amax(1)
        if not torch.isfinite(high - low).all():
            raise ValueError("features: smallest and largest are too far apart for float32.")
        step = ((high - low) / (2**self.bits - 1)).clamp_min(torch.finfo(torch.float32).tiny)
        levels = ((flat - low[:, None]) / step[:, None]).round().clamp(0, 2**self.bits - 1).to(torch.uint8)
        return {"levels": _pack(levels, self.bits), "low": low, "high": high}

    def decode(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        count = math.prod(shape[1:])
        expected = {
            "levels": ((shape[0], math.ceil(count * self.bits / 8)), torch.uint8),
            "low": ((shape[0],), torch.float32),
            "high": ((shape[0],), torch.float32),
        }
        levels, low, high = _take(sent, expected).values()
        if not (torch.isfinite(high - low) & (low <= high)).all():
            raise ValueError("low, high: accepted are finite numbers in order, a finite distance apart.")
        levels = _unpack(levels, self.bits, count).to(low)
        restored = low[:, None] + levels * ((high - low) / (2**self.bits - 1))[:, None]
        return restored.reshape(shape).to(dtype)


class ChannelCodec(nn.Module):
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

    def encode(self, features: torch.Tensor) -> Tensors:
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ValueError(
                f"features: got {tuple(features.shape)}, accepted are (batch, {self.channels}, height, width)."
            )
        return self.quantizer.encode(self.codec.encode(features))

    def decode(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        code_shape = (shape[0], self.codec.code_channels, *shape[2:])
        weight = next(self.codec.parameters())
        code = self.quantizer.decode(sent, code_shape, weight.dtype)
        return self.codec.decoder(code).to(dtype)


class EntropicCodec(nn.Module):
    """Entropic Student's bottleneck: its encoder stands in the place of the whole head, its decoder before the tail.

    For features (batch, target_channels, height / 4, width / 4) of images (batch, 3, height, width).

    Args:
        channels, target_channels: see `EntropicBottleneck`.
    """

    kind = "entropic"
    #: It encodes images, not what the network makes of them.
    takes_images = True

    def __init__(self, channels: int = 24, target_channels: int = 256):
        super().__init__()
        self.channels, self.target_channels = channels, target_channels
        self.bottleneck = EntropicBottleneck(channels, target_channels)

    @classmethod
    def of(cls, bottleneck: EntropicBottleneck) -> "EntropicCodec":
        """Around a trained bottleneck, of which `entropy_bottleneck.update()` has made the tables."""
        codec = cls(bottleneck.encoder[-1].out_channels, bottleneck.decoder[-1].out_channels)
        codec.bottleneck = bottleneck
        return codec

    def settings(self) -> dict:
        return {"channels": self.channels, "target_channels": self.target_channels}

    def encode(self, pixel_values: torch.Tensor) -> Tensors:
        return _joined(self.bottleneck.encode(pixel_values.float()).streams)

    def decode(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        _check_maps(shape, self.target_channels)
        coded = CodedFeatures(_streams(sent, shape[0]), (shape[2] - 1, shape[3] - 1))
        return self.bottleneck.decode(coded).to(dtype)


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


class SlimmableCodec(nn.Module):
    """`EntropicCodec` with an encoder of several widths: each request says which one it was made by.

    Args:
        widths, target_channels: see `SlimmableBottleneck`.
    """

    kind = "slimmable"
    takes_images = True

    def __init__(self, widths: Sequence[int] = (8, 16, 24), target_channels: int = 256):
        super().__init__()
        self.bottleneck = SlimmableBottleneck(widths, target_channels)

    @classmethod
    def of(cls, bottleneck: SlimmableBottleneck) -> "SlimmableCodec":
        """Around a trained bottleneck, whose `update()` has made the tables."""
        codec = cls(bottleneck.widths, bottleneck.target_channels)
        codec.bottleneck = bottleneck
        return codec

    @property
    def widths(self) -> tuple[int, ...]:
        """To choose from."""
        return self.bottleneck.widths

    def settings(self) -> dict:
        return {"widths": list(self.widths), "target_channels": self.bottleneck.target_channels}

    def encode(self, pixel_values: torch.Tensor, width: int | None = None) -> Tensors:
        """What is sent for (batch, 3, height, width), by an encoder of `width`, by default the largest."""
        width = self.bottleneck.checked(width)
        streams = self.bottleneck.encode(pixel_values.float(), width).streams
        return {**_joined(streams), "width": torch.tensor([width])}

    def decode(self, sent: Mapping[str, torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        _check_maps(shape, self.bottleneck.target_channels)
        sent = dict(sent)
        width = sent.pop("width", None)
        if width is None or width.dtype != torch.int64 or tuple(width.shape) != (1,):
            raise ValueError("payload: width must be one whole number.")
        width = self.bottleneck.checked(int(width))
        coded = CodedFeatures(_streams(sent, shape[0]), (shape[2] - 1, shape[3] - 1))
        return self.bottleneck.decode(coded, width).to(dtype)


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
