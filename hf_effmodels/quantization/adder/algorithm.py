"""The mathematics of AdderNet's quantisation: ranges, groups of filters, the lossless clamp, levels.

|x - w| can be computed on integers only where x and w share one scale. Filters of one layer differ widely in range; so
they are clustered, each group has a scale of its own, and the activations are quantised once for every group.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch


def upper_quantile(activations: torch.Tensor, keep_ratio: float) -> torch.Tensor:
    """The value of |x| at index ⌊(round(N·r) - 1)·r⌋ of the N sorted ones: the published code applies r twice."""
    if not activations.numel():
        raise ValueError("calibration: got a batch without activations.")
    magnitudes = activations.abs().flatten()
    index = int((round(magnitudes.numel() * keep_ratio) - 1) * keep_ratio)
    return magnitudes.kthvalue(max(index, 0) + 1).values


def activation_range(batches: Iterable[torch.Tensor], keep_ratio: float = 0.9997) -> float:
    """The largest upper quantile of the batches, at least 1e-3: larger activations are cut off as outliers.

    Raises:
        ValueError: no batches, values that are not finite, or a ratio outside (0, 1].
    """
    check_keep_ratio(keep_ratio)
    ranges = [upper_quantile(batch, keep_ratio).item() for batch in batches]
    if not ranges:
        raise ValueError("calibration: there are no batches, accepted is one at least.")
    if not all(value == value and value != float("inf") for value in ranges):
        raise ValueError("calibration: got activations that are not finite.")
    return max(1e-3, *ranges)


def cluster(values: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Exact 1-D k-means: the group of each value, 0 having the smallest ones. Nothing is random.

    On the line the best groups are intervals of the sorted values, found by dynamic programming over their squared
    deviations. Equal values stay together where that is possible.

    Raises:
        ValueError: more groups than there are values.
    """
    number = values.numel()
    if not 1 <= n_groups <= number:
        raise ValueError(f"n_groups: got {n_groups}, accepted are whole numbers from 1 to the {number} filters.")
    ordered, order = values.double().sort(stable=True)
    zero = ordered.new_zeros(1)
    sums, squares = torch.cat([zero, ordered.cumsum(0)]), torch.cat([zero, ordered.square().cumsum(0)])
    # deviations[a, b]: of the values a … b - 1 from their mean.
    start, end = torch.arange(number + 1)[:, None], torch.arange(number + 1)[None, :]
    count = (end - start).clamp(min=1)
    deviations = squares[None, :] - squares[:, None] - (sums[None, :] - sums[:, None]).square() / count
    deviations = deviations.clamp(min=0).masked_fill(end <= start, float("inf"))
    best, cuts = deviations[0].clone(), []
    for _ in range(1, n_groups):
        best, cut = (best[:, None] + deviations).min(0)
        cuts.append(cut)
    groups, stop = torch.zeros(number, dtype=torch.long), number
    for group in range(n_groups - 1, 0, -1):
        begin = int(cuts[group - 1][stop])
        groups[begin:stop] = group
        stop = begin
    result = torch.empty_like(groups)
    result[order] = groups
    return result


@dataclass(frozen=True)
class QuantizedAdder:
    """An adder layer on integers.

    Attributes:
        levels: of the weights, (out, in, kernel, kernel), from -2^(bits-1) to 2^(bits-1) - 1; a step is
            2·scale/(2^bits - 1).
        group: of each filter, (out,).
        scale: of each group, (groups,).
        bias: of each filter, (out,): what clamping its weights takes away.
        clamped: the weights after the lossless clamp.
    """

    levels: torch.Tensor
    group: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    clamped: torch.Tensor


def check_bits(name: str, bits: int) -> None:
    if type(bits) is not int or not 2 <= bits <= 8:
        raise ValueError(f"{name}: got {bits!r}, accepted are whole numbers from 2 to 8.")


def check_keep_ratio(keep_ratio: float) -> None:
    if isinstance(keep_ratio, bool) or not isinstance(keep_ratio, int | float) or not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio: got {keep_ratio!r}, accepted are numbers above 0, up to 1.")


def quantize_weights(weight: torch.Tensor, act_range: float, bits: int = 8, n_groups: int = 4) -> QuantizedAdder:
    """Group the filters by their largest |w|, clamp them to the activations' range without loss, round them.

    For 0 ≤ x ≤ s is |x - w| = (|w| - s) + |x - clip(w, -s, s)| wherever |w| > s: what is cut off is a constant of the
    filter, its bias -Σ(|w| - s).
    """
    check_bits("bits", bits)
    if not torch.isfinite(weight).all():
        raise ValueError("weight: got values that are not finite.")
    largest = weight.abs().flatten(1).amax(1)
    group = cluster(largest, n_groups)
    scale = torch.stack([largest[group == g].max() for g in range(n_groups)]).clamp(max=act_range)
    of_filter = scale[group][:, None, None, None]
    bias = -(weight.abs() - of_filter).clamp(min=0).sum((1, 2, 3))
    clamped = torch.maximum(torch.minimum(weight, of_filter), -of_filter)
    steps = 2**bits - 1
    positive = torch.where(of_filter > 0, of_filter, 1)
    levels = (clamped * steps / (2 * positive)).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return QuantizedAdder(levels.to(torch.int8), group, scale, bias, clamped)


def quantize_activations(inputs: torch.Tensor, scale: torch.Tensor | float, bits: int) -> torch.Tensor:
    """Levels from 0 to 2^bits - 1 of activations from 0 to `scale`; greater ones are cut off. Half to even."""
    steps = 2**bits - 1
    return (inputs * steps / scale).round().clamp(0, steps)
