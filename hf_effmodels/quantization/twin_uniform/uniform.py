"""Uniform symmetric quantisers with groups, and the two twin ones for what follows a GELU and a softmax.

All simulate: they give back the numbers that the integers stand for. With b bits the integers go from -q to q - 1,
q = 2^(b-1); rounding is half to even. The rules are those of TinySAM (https://arxiv.org/abs/2312.13789, section 3.3),
which are PTQ4ViT's (https://arxiv.org/abs/2111.12293).
"""

import torch
from torch.nn import functional as F

#: The smallest value of the GELU, negated.
GELU_MINIMUM = 0.16997124254703522


def levels(bits: int) -> int:
    """q = 2^(bits-1): the integers go from -q to q - 1."""
    if type(bits) is not int or not 2 <= bits <= 16:
        raise ValueError(f"bits: got {bits!r}, accepted are whole numbers from 2 to 16.")
    return 2 ** (bits - 1)


def to_integers(values: torch.Tensor, interval: torch.Tensor, bits: int) -> torch.Tensor:
    """clamp(round(values / interval), -q, q - 1), in the dtype of `values`; `interval` broadcasts."""
    q = levels(bits)
    return (values / interval).round().clamp(-q, q - 1)


def fake_quantize(values: torch.Tensor, interval: torch.Tensor, bits: int) -> torch.Tensor:
    """The values of the integers."""
    return to_integers(values, interval, bits) * interval


def weight_groups(weight: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A matrix (out, in) as a view (rows, out / rows, columns, in / columns); intervals are (rows, 1, columns, 1)."""
    out_features, in_features = weight.shape
    if out_features % rows or in_features % columns:
        raise ValueError(f"groups: {rows} × {columns} do not divide a weight of {out_features} × {in_features}.")
    return weight.view(rows, out_features // rows, columns, in_features // columns)


def quantize_weight(weight: torch.Tensor, intervals: torch.Tensor, bits: int) -> torch.Tensor:
    """A matrix (out, in) with an interval for each group, (row groups, 1, column groups, 1)."""
    groups = weight_groups(weight, intervals.shape[0], intervals.shape[2])
    return fake_quantize(groups, intervals, bits).view_as(weight)


def feature_groups(values: torch.Tensor, groups: int) -> torch.Tensor:
    """(..., features) as (..., groups, features / groups), whose intervals are (groups, 1)."""
    return values.unflatten(-1, (groups, -1))


def quantize_features(values: torch.Tensor, intervals: torch.Tensor, bits: int) -> torch.Tensor:
    """(..., features) with an interval for each group of features, (groups, 1)."""
    return fake_quantize(feature_groups(values, intervals.shape[0]), intervals, bits).flatten(-2)


def gelu_interval(bits: int) -> float:
    """The interval of what is negative after a GELU: its minimum over q."""
    return GELU_MINIMUM / levels(bits)


def quantize_after_gelu(values: torch.Tensor, intervals: torch.Tensor, bits: int) -> torch.Tensor:
    """What is positive by groups of features with `intervals` (groups, 1), what is negative with `gelu_interval`."""
    q, negative = levels(bits), gelu_interval(bits)
    positive = (feature_groups(values, intervals.shape[0]) / intervals).round().clamp(0, q - 1) * intervals
    return positive.flatten(-2) + (values / negative).round().clamp(-q, 0) * negative


def quantize_operand(values: torch.Tensor, intervals: torch.Tensor, bits: int) -> torch.Tensor:
    """An operand (batch, heads, rows, columns) of a product, by groups of heads, rows and columns.

    Args:
        intervals: (1, head groups, 1, row groups, 1, column groups, 1). Sizes that do not divide into the groups are
            filled up with zeros.
    """
    _, heads, _, rows, _, columns, _ = intervals.shape
    sizes = values.shape[1:]
    padding = [-size % groups for size, groups in zip(sizes, (heads, rows, columns), strict=True)]
    padded = F.pad(values, (0, padding[2], 0, padding[1], 0, padding[0]))
    grouped = padded.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).unflatten(1, (heads, -1))
    quantized = fake_quantize(grouped, intervals, bits).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return quantized[:, : sizes[0], : sizes[1], : sizes[2]]


def quantize_after_softmax(
    values: torch.Tensor, split: torch.Tensor, bits: int, shifted: bool = False
) -> torch.Tensor:
    """Probabilities with two ranges: up to `split` in steps of split / (q - 1), above in steps of 1 / (q - 1).

    Args:
        shifted: as the official code has it: the sum of both ranges, so that everything is shifted by about `split`.
            Published weights were searched with it; new ones should not be.
    """
    q = levels(bits)
    step = split / (q - 1)
    low = (values.clamp(min=0).minimum(split) / step).round() * step
    high = (values.maximum(split).clamp(max=1) * (q - 1)).round() / (q - 1)
    return low + high if shifted else torch.where(values < split, low, high)


def quantize_map(values: torch.Tensor, interval: torch.Tensor, bits: int, shift: float = 0.0) -> torch.Tensor:
    """A map (batch, channels, height, width) with one interval around `shift`."""
    return fake_quantize(values - shift, interval, bits) + shift
