"""Integers of b bits packed densely into 32-bit words, as compressed-tensors' `pack-quantized` has them.

The offset 2^(b-1) makes them non-negative; the first one has the lowest bits. 3 bits straddle words.
"""

import math

import torch


def _cycle(bits: int) -> tuple[int, int]:
    """(values, words) after which values begin with words again."""
    bits_of_cycle = math.lcm(bits, 32)
    return bits_of_cycle // bits, bits_of_cycle // 32


def pack(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """(..., n) integers in [-2^(b-1), 2^(b-1) - 1] -> (..., ceil(n b / 32)) int32."""
    n = integers.shape[-1]
    values, words = _cycle(bits)
    unsigned = (integers.to(torch.int64) + 2 ** (bits - 1)) & (2**bits - 1)
    unsigned = torch.nn.functional.pad(unsigned, (0, -n % values)).unflatten(-1, (-1, values))
    packed = torch.zeros(*unsigned.shape[:-1], words, dtype=torch.int64, device=integers.device)
    for k in range(values):
        word, shift = divmod(k * bits, 32)
        packed[..., word] |= (unsigned[..., k] << shift) & 0xFFFFFFFF
        if shift + bits > 32:
            packed[..., word + 1] |= unsigned[..., k] >> (32 - shift)
    packed = packed.flatten(-2)[..., : math.ceil(n * bits / 32)]
    return (packed - ((packed >> 31) << 32)).to(torch.int32)


def unpack(packed: torch.Tensor, bits: int, n: int) -> torch.Tensor:
    """(..., words) int32 -> the first `n` integers, (..., n) int8."""
    values, words = _cycle(bits)
    padded = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % words)).unflatten(-1, (-1, words))
    unpacked = torch.empty(*padded.shape[:-1], values, dtype=torch.int8, device=packed.device)
    mask = 2**bits - 1
    for k in range(values):
        word, shift = divmod(k * bits, 32)
        # int32 shifts keep the sign; the mask takes off what they fill in, as long as the value ends in the word.
        value = (padded[..., word] >> shift) & (mask >> max(shift + bits - 32, 0))
        if shift + bits > 32:
            value = value | ((padded[..., word + 1] << (32 - shift)) & mask)
        unpacked[..., k] = (value - 2 ** (bits - 1)).to(torch.int8)
    return unpacked.flatten(-2)[..., :n]
