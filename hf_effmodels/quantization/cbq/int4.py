"""Torch's product of bfloat16 rows with a weight of 4-bit integers on a CPU, and the layout it wants them in.

The operators are not public: `is_usable` tries them before anything relies on them.
"""

from collections.abc import Callable
from functools import cache

import torch

#: Sizes of groups that the operator takes.
GROUP_SIZES = (256, 128, 64, 32)


def pack(integers: torch.Tensor) -> torch.Tensor:
    """(rows, inputs) integers in [-8, 7] -> (rows, inputs / 2) bytes, in the order of this machine."""
    return torch._convert_weight_to_int4pack_for_cpu((integers.to(torch.int32) + 8).contiguous(), 2)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """(rows, inputs) int8: what `pack` was given."""
    return (_rows(packed, _layout()).view(torch.int8)) - 8


def product(x: torch.Tensor, packed: torch.Tensor, group_size: int, scales_and_zeros: torch.Tensor) -> torch.Tensor:
    """x Wᵀ with W = integers · scale + zero.

    Args:
        x: (n, inputs) bfloat16
        packed: of `pack`
        scales_and_zeros: (groups, rows, 2) bfloat16
    """
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group_size, scales_and_zeros)


@cache
def is_usable(rows: int, inputs: int, group_size: int) -> bool:
    """Whether this machine and version of torch multiply a weight of this size, and rightly so."""
    if rows % 16 or group_size not in GROUP_SIZES or inputs % group_size:
        return False
    try:
        generator = torch.Generator().manual_seed(0)
        integers = torch.randint(-8, 8, (rows, group_size), generator=generator, dtype=torch.int8)
        packed, scale = pack(integers), torch.full((1, rows), 2.0)
        x = torch.randint(-2, 3, (2, group_size), generator=generator).bfloat16()
        y = product(x, packed, group_size, torch.stack([scale, -scale], -1).bfloat16())
        expected = x.float() @ (integers.float() * 2 - 2).T
        return torch.equal(unpack(packed), integers) and torch.allclose(y.float(), expected, rtol=0.01, atol=0.01)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


# The order of the bytes: blocks of rows, in each of which the inputs are the first dimension.


def _halves_of_64(block: torch.Tensor) -> torch.Tensor:
    """(blocks, inputs, 32): byte d holds rows d and 32 + d, with 16 rows at a time (AVX-512)."""
    a, b = block[..., :16], block[..., 16:]
    return torch.stack([a & 15, b & 15, a >> 4, b >> 4], -2).flatten(-2)


def _halves_of_32(block: torch.Tensor) -> torch.Tensor:
    """(blocks, inputs, 16): byte d holds rows d and 16 + d (AVX2)."""
    return torch.cat([block & 15, block >> 4], -1)


def _pairs(block: torch.Tensor) -> torch.Tensor:
    """Byte d holds rows 2 d and 2 d + 1."""
    return torch.stack([block & 15, block >> 4], -1).flatten(-2)


#: Rows of a block, and how its bytes are read. What is left of the rows is a block of pairs.
_LAYOUTS: tuple[tuple[int, Callable], ...] = ((64, _halves_of_64), (32, _halves_of_32), (64, _pairs), (32, _pairs))


def _rows(packed: torch.Tensor, layout: tuple[int, Callable]) -> torch.Tensor:
    """(rows, inputs) bytes in 0 to 15."""
    (size, read), (rows, half) = layout, packed.shape
    inputs, flat = 2 * half, packed.flatten()
    whole = rows // size * size
    parts = [read(flat[: whole * half].view(-1, inputs, size // 2)).transpose(1, 2).reshape(whole, inputs)]
    if rows > whole:
        parts.append(_pairs(flat[whole * half :].view(inputs, -1)).T)
    return torch.cat(parts)


@cache
def _layout() -> tuple[int, Callable]:
    """The one that reads what `pack` writes.

    Raises:
        NotImplementedError: none does.
    """
    integers = torch.randint(-8, 8, (144, 32), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
    packed = pack(integers)
    for layout in _LAYOUTS:
        if torch.equal(_rows(packed, layout).view(torch.int8) - 8, integers):
            return layout
    raise NotImplementedError("the order in which this version of torch packs 4-bit integers is not known")
