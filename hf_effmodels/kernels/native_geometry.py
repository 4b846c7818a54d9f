"""Sizes of a convolution as the kernels take them, and the kernel positions that lie inside of the image."""

import ctypes
from dataclasses import astuple, dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Geometry:
    """A two-dimensional convolution without groups; fields and their order are those of `Geometry` in `kernels.c`."""

    batch: int
    channels: int
    words: int
    height: int
    width: int
    filters: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    pad_y: int
    pad_x: int
    dilation_y: int
    dilation_x: int

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        filters: int,
        kernel,
        stride,
        padding,
        dilation=(1, 1),
        channels_per_word: int = 64,
    ) -> "Geometry":
        """Of inputs (batch, channels, height, width).

        Raises:
            ValueError: inputs smaller than the kernel.
        """
        batch, channels, height, width = shape
        sides = [
            output_size(size, k, s, p, d)
            for size, k, s, p, d in zip((height, width), kernel, stride, padding, dilation, strict=True)
        ]
        if min(sides) < 1:
            raise ValueError(f"inputs: {tuple(shape)} is smaller than the kernel {tuple(kernel)}.")
        words = -(-channels // channels_per_word)
        return cls(batch, channels, words, height, width, filters, *sides, *kernel, *stride, *padding, *dilation)

    def pointer(self):
        return (ctypes.c_int64 * 16)(*astuple(self))


def check_channels(inputs: torch.Tensor, channels: int) -> None:
    """ValueError unless `inputs` are floating point, (batch, channels, height, width): kernels read what they are told
    is there."""
    if not inputs.is_floating_point():
        raise ValueError(f"inputs: got {inputs.dtype}, accepted are floating point numbers.")
    if inputs.ndim != 4 or inputs.shape[1] != channels:
        raise ValueError(f"inputs: got {tuple(inputs.shape)}, accepted are (batch, {channels}, height, width).")


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """⌊(size + 2·padding - dilation·(kernel - 1) - 1) / stride⌋ + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@lru_cache(maxsize=256)
def border_classes(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[tuple[tuple[bool, ...], ...], tuple[int, ...]]:
    """Which kernel positions of a line lie inside of the image: the different cases, and the case of each output."""
    cases: dict[tuple[bool, ...], int] = {}
    index = []
    for output in range(output_size(size, kernel, stride, padding, dilation)):
        inside = tuple(0 <= output * stride - padding + k * dilation < size for k in range(kernel))
        index.append(cases.setdefault(inside, len(cases)))
    return tuple(cases), tuple(index)


def border_masks(geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows' and columns' cases (cases, kernel) as float64 of 0 and 1, and the case of each row and column, int64."""
    rows, of_row = border_classes(
        geometry.height, geometry.kernel_height, geometry.stride_y, geometry.pad_y, geometry.dilation_y
    )
    columns, of_column = border_classes(
        geometry.width, geometry.kernel_width, geometry.stride_x, geometry.pad_x, geometry.dilation_x
    )
    masks = (torch.tensor(cases, dtype=torch.float64) for cases in (rows, columns))
    return (*masks, torch.tensor(of_row), torch.tensor(of_column))
