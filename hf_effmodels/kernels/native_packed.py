"""Convolutions on bits, and on bytes' distances: the native kernels, and the same by torch's operators.

Both compute whole numbers exactly, and round the scales in the same order: their results are equal to the last bit.
"""

import ctypes

import torch
from torch.nn import functional as F

from .native_geometry import Geometry
from .native_library import check, level, library

#: Filters that stand side by side in the kernels' words.
LANES = 8
SIGNS, TERNARY, DISTANCES = range(3)


def pack_bits(values: torch.Tensor) -> torch.Tensor:
    """(rows, n) of bool -> (rows, ⌈n / 8⌉) uint8; value i is bit i % 8 of byte i // 8, and the last bits are 0."""
    rows, count = values.shape
    padded = F.pad(values.to(torch.uint8), (0, -count % 8)).view(rows, -1, 8)
    return sum(padded[:, :, bit] << bit for bit in range(8))


def unpack_bits(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The inverse of `pack_bits`: (rows, bytes) uint8 -> (rows, count) bool."""
    places = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=packed.device)
    return (packed[:, :, None] & places != 0).flatten(1)[:, :count]  # no shifts: ONNX has none of bytes


def sign_words(positive: torch.Tensor) -> torch.Tensor:
    """Filters of bits (filters, channels, kernel height, kernel width), bool, as the kernels' words, int64."""
    filters, channels = positive.shape[:2]
    bits = F.pad(positive.permute(0, 2, 3, 1).flatten(1, 2).to(torch.int64), (0, -channels % 64)).unflatten(
        2, (-1, 64)
    )
    return _in_lanes((bits << torch.arange(64)).sum(3), filters)


def byte_words(values: torch.Tensor) -> torch.Tensor:
    """Filters of bytes (filters, channels, kernel height, kernel width), uint8, as the kernels' words, int64."""
    filters, channels = values.shape[:2]
    padded = F.pad(values.permute(0, 2, 3, 1).flatten(1, 2), (0, -channels % 8)).contiguous()
    return _in_lanes(padded.view(torch.int64), filters)


def _in_lanes(words: torch.Tensor, filters: int) -> torch.Tensor:
    """(filters, positions, words) -> (⌈filters / 8⌉, positions, words, 8)."""
    padded = F.pad(words, (0, 0, 0, 0, 0, -filters % LANES))
    return padded.unflatten(0, (-1, LANES)).permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("hf_effmodels::packed_conv2d", mutates_args=(), device_types="cpu")
def packed_conv2d(
    inputs: torch.Tensor,
    words: torch.Tensor,
    gain: torch.Tensor,
    mean: torch.Tensor,
    shift: torch.Tensor,
    row_class: torch.Tensor,
    column_class: torch.Tensor,
    lower: float,
    upper: float,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    channels_first: bool = False,
    isa: int = -1,
) -> torch.Tensor:
    """gain·Σs·b + mean·Σs + shift, with s = -1 where x < lower, 1 where x > upper, 0 between and in the padding.

    Args:
        inputs: (batch, channels, height, width), float32 or float64, contiguous in one of torch's memory formats.
        words: the filters' bits b, of `sign_words`.
        gain, mean: (filters,), in the dtype of the inputs.
        shift: (cases of rows, cases of columns, filters), likewise.
        row_class, column_class: the case of each output row and column, int64.
        channels_first: the order of the result's dimensions.
        isa: an instruction set; -1 is the best one.

    Returns:
        (batch, height', width', filters), or (batch, filters, height', width').

    Raises:
        ValueError: inputs that are not finite.
    """
    geometry = Geometry.of(inputs.shape, len(gain), kernel, stride, padding, dilation)
    isa, threads = level() if isa < 0 else isa, torch.get_num_threads()
    last = not inputs.is_contiguous()
    if last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    doubles = inputs.dtype == torch.float64
    pixels = geometry.height * geometry.width
    signs = torch.empty(2, geometry.batch, pixels, geometry.words, dtype=torch.int64)
    seen = library().effmodels_pack(
        isa, threads, doubles, last, ctypes.c_void_p(inputs.data_ptr()),
        *map(ctypes.c_int64, (geometry.batch, geometry.channels, pixels)),
        ctypes.c_double(lower), ctypes.c_double(upper),
        *(ctypes.c_void_p(half.data_ptr()) for half in signs),
    )  # fmt: skip
    if seen & 2:
        raise ValueError("inputs: got values that are not finite.")
    output = inputs.new_empty(_output_shape(geometry, channels_first))
    operation = TERNARY if seen & 1 else SIGNS
    tables = (gain, mean, shift, row_class, column_class)
    _convolve(isa, threads, operation, geometry, signs, words, *tables, output, channels_first)
    return output


def _output_shape(geometry: Geometry, channels_first: bool) -> tuple[int, int, int, int]:
    sides = (geometry.out_height, geometry.out_width)
    return (geometry.batch, geometry.filters, *sides) if channels_first else (geometry.batch, *sides, geometry.filters)


def _convolve(
    isa, threads, operation, geometry, signs, words, gain, mean, shift, row_class, column_class, output, channels_first
) -> None:
    status = library().effmodels_conv(
        isa, threads, operation, output.dtype == torch.float64, channels_first, geometry.pointer(),
        *(ctypes.c_void_p(half.data_ptr()) for half in signs),
        *(ctypes.c_void_p(t.data_ptr()) for t in (words, gain, mean, shift, row_class, column_class)),
        ctypes.c_int64(shift.shape[1]), ctypes.c_void_p(output.data_ptr()),
    )  # fmt: skip
    check(status)


@packed_conv2d.register_fake
def _(
    inputs, words, gain, mean, shift, row_class, column_class, lower, upper, kernel, stride, padding, dilation,
    channels_first=False, isa=-1,
):  # fmt: skip
    geometry = Geometry.of(inputs.shape, len(gain), kernel, stride, padding, dilation)
    return inputs.new_empty(_output_shape(geometry, channels_first))


def unpacked_conv2d(
    inputs: torch.Tensor,
    positive: torch.Tensor,
    gain: torch.Tensor,
    mean: torch.Tensor,
    shift: torch.Tensor,
    row_class: torch.Tensor,
    column_class: torch.Tensor,
    lower: float,
    upper: float,
    stride,
    padding,
    dilation,
    channels_first: bool = False,
) -> torch.Tensor:
    """`packed_conv2d` by torch's operators, on any device, of filters `positive` (filters, channels, kernel height,
    kernel width), bool. Sums of signs are exact in float32 up to 2^24."""
    if not inputs.isfinite().all():
        raise ValueError("inputs: got values that are not finite.")
    signs = (inputs > upper).float() - (inputs < lower).float()
    filters = positive.float() * 2 - 1
    geometry = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
    count = F.conv2d(signs, filters, **geometry).round().to(inputs.dtype)
    box = filters.new_ones(1, 1, *filters.shape[2:])
    total = F.conv2d(signs.sum(1, keepdim=True), box, **geometry).round().to(inputs.dtype)
    shift = shift[row_class][:, column_class].permute(2, 0, 1)
    output = (gain[:, None, None] * count + mean[:, None, None] * total) + shift
    return output if channels_first else output.permute(0, 2, 3, 1)


@torch.library.custom_op("hf_effmodels::byte_distances", mutates_args=(), device_types="cpu")
def byte_distances(
    levels: torch.Tensor,
    words: torch.Tensor,
    gain: torch.Tensor,
    shift: torch.Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    isa: int = -1,
) -> torch.Tensor:
    """-gain·Σ|x - w| + shift of unsigned bytes; padding is the byte 0.

    Args:
        levels: (batch, height, width, channels), uint8, channels a multiple of 8.
        words: of `byte_words`.
        gain, shift: (filters,), float32 or float64.

    Returns:
        (batch, height', width', filters) in the dtype of `gain`.
    """
    batch, height, width, channels = levels.shape
    geometry = Geometry.of((batch, channels, height, width), len(gain), kernel, stride, padding, channels_per_word=8)
    output = gain.new_empty(geometry.batch, geometry.out_height, geometry.out_width, geometry.filters)
    zeros = torch.zeros(max(geometry.out_height, geometry.out_width), dtype=torch.int64)
    _convolve(
        level() if isa < 0 else isa, torch.get_num_threads(), DISTANCES, geometry, (levels, levels), words,
        gain, torch.zeros_like(gain), shift[None, None], zeros, zeros, output, False,
    )  # fmt: skip
    return output


@byte_distances.register_fake
def _(levels, words, gain, shift, kernel, stride, padding, isa=-1):
    batch, height, width, channels = levels.shape
    geometry = Geometry.of((batch, channels, height, width), len(gain), kernel, stride, padding)
    return gain.new_empty(geometry.batch, geometry.out_height, geometry.out_width, geometry.filters)
