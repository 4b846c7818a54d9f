"""The search for intervals that change a layer's output least, weighted by the gradient of the task's loss.

PTQ4ViT's search (https://arxiv.org/abs/2111.12293, section 3.3), with the constants of TinySAM: candidates between
0.01 and 1.2 times the interval of the largest magnitude, in turns for the two operands.
"""

import torch
from torch.nn import functional as F

from .uniform import (
    fake_quantize,
    feature_groups,
    levels,
    quantize_after_gelu,
    quantize_after_softmax,
    quantize_features,
    quantize_operand,
    quantize_weight,
    weight_groups,
)

ROUNDS = 3
#: Splits that are tried for the two ranges of probabilities.
SPLITS = tuple(2.0**-i for i in range(20))


def candidates(like: torch.Tensor, low: float = 0.01, high: float = 1.2, count: int = 100) -> torch.Tensor:
    """Factors low + i (high - low) / count, i from 0 to count - 1: the end is not among them."""
    return low + torch.arange(count, dtype=like.dtype, device=like.device) * (high - low) / count


def largest(values: torch.Tensor, dims: tuple[int, ...], bits: int) -> torch.Tensor:
    """The interval that just holds the largest magnitude over `dims`, which stay as 1: |x| / (q - 0.5)."""
    found = values.abs().amax(dims, keepdim=True) / (levels(bits) - 0.5)
    # A group of zeros has any interval.
    return torch.where(found > 0, found, torch.ones_like(found))


def _errors(output: torch.Tensor, expected: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return (gradient * (output - expected)).square()


def search_linear(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gradient: torch.Tensor,
    *,
    weight_bits: int,
    input_bits: int,
    row_groups: int = 1,
    column_groups: int = 1,
    input_groups: int = 1,
    after_gelu: bool = False,
    rounds: int = ROUNDS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Intervals of a linear layer: of its weight (row groups, 1, column groups, 1), of its inputs (input groups, 1).

    Args:
        inputs: (..., in) of the calibration. weight: (out, in). bias: (out) or None.
        gradient: of the task's loss for the layer's output, (..., out).
        after_gelu: the inputs come from a GELU; what is negative has an interval of its own, which is not searched.
        rounds: turns of weight and inputs.
    """
    inputs, gradient = inputs.flatten(0, -2), gradient.flatten(0, -2)
    expected = F.linear(inputs, weight, bias)
    start_weight = largest(weight_groups(weight, row_groups, column_groups), (1, 3), weight_bits)
    grouped = feature_groups(inputs, input_groups)
    if after_gelu:
        start_input = grouped.amax((0, 2))[:, None] / (levels(input_bits) - 0.5)
        start_input = torch.where(start_input > 0, start_input, torch.ones_like(start_input))
    else:
        start_input = largest(grouped, (0, 2), input_bits)[0]
    quantize_inputs = quantize_after_gelu if after_gelu else quantize_features
    weight_interval, input_interval = start_weight.clone(), start_input.clone()
    factors = candidates(weight)
    for _ in range(rounds):
        quantized = quantize_inputs(inputs, input_interval, input_bits)
        for column in range(column_groups):
            scores = []
            for factor in factors:
                tried = weight_interval.clone()
                tried[:, :, column] = start_weight[:, :, column] * factor
                output = F.linear(quantized, quantize_weight(weight, tried, weight_bits), bias)
                # Each group of rows has outputs of its own, and so a score.
                scores.append(feature_groups(_errors(output, expected, gradient), row_groups).mean((0, 2)))
            best = factors[torch.stack(scores).argmin(0)]
            weight_interval[:, 0, column, 0] = start_weight[:, 0, column, 0] * best
        quantized_weight = quantize_weight(weight, weight_interval, weight_bits)
        for group in range(input_groups):
            scores = []
            for factor in factors:
                tried = input_interval.clone()
                tried[group] = start_input[group] * factor
                output = F.linear(quantize_inputs(inputs, tried, input_bits), quantized_weight, bias)
                scores.append(_errors(output, expected, gradient).mean())
            input_interval[group] = start_input[group] * factors[torch.stack(scores).argmin()]
    return weight_interval, input_interval


def _head_interval(values: torch.Tensor, bits: int) -> torch.Tensor:
    """The interval of each head of (batch, heads, rows, columns), in the shape `quantize_operand` takes."""
    return largest(values, (0, 2, 3), bits).reshape(1, -1, 1, 1, 1, 1, 1)


def _best_head_interval(start: torch.Tensor, score) -> torch.Tensor:
    """`score(interval)` -> errors (batch, heads, ...); the best factor of each head."""
    factors = candidates(start)
    scores = torch.stack([score(start * factor).mean((0, 2, 3)) for factor in factors])
    return start * factors[scores.argmin(0)].view_as(start)


def search_product(
    first: torch.Tensor,
    second: torch.Tensor,
    gradient: torch.Tensor,
    *,
    bits: int,
    rounds: int = ROUNDS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Intervals of both operands of a product of attention, one per head: (1, heads, 1, 1, 1, 1, 1).

    Args:
        first, second: (batch, heads, rows, inner), (batch, heads, inner, columns).
        gradient: of the loss for the product.
    """
    expected = first @ second
    start_first, start_second = _head_interval(first, bits), _head_interval(second, bits)
    first_interval, second_interval = start_first, start_second
    for _ in range(rounds):
        other = quantize_operand(second, second_interval, bits)
        first_interval = _best_head_interval(
            start_first, lambda s, o=other: _errors(quantize_operand(first, s, bits) @ o, expected, gradient)
        )
        other = quantize_operand(first, first_interval, bits)
        second_interval = _best_head_interval(
            start_second, lambda s, o=other: _errors(o @ quantize_operand(second, s, bits), expected, gradient)
        )
    return first_interval, second_interval


def search_product_after_softmax(
    probabilities: torch.Tensor,
    values: torch.Tensor,
    gradient: torch.Tensor,
    *,
    bits: int,
    shifted: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The split of the probabilities (1,) and the interval of each head of the values, (1, heads, 1, 1, 1, 1, 1).

    Args:
        probabilities: (batch, heads, rows, inner), after a softmax. values: (batch, heads, inner, columns).
        gradient: of the loss for the product. shifted: see `quantize_after_softmax`.
    """
    expected = probabilities @ values
    splits = torch.tensor(SPLITS, dtype=values.dtype, device=values.device)
    scores = [
        _errors(quantize_after_softmax(probabilities, split, bits, shifted) @ values, expected, gradient).mean()
        for split in splits
    ]
    split = splits[torch.stack(scores).argmin()].reshape(1)
    quantized = quantize_after_softmax(probabilities, split, bits, shifted)
    interval = _best_head_interval(
        _head_interval(values, bits),
        lambda s: _errors(quantized @ quantize_operand(values, s, bits), expected, gradient),
    )
    return split, interval


def search_convolution(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The interval of each output channel of a kernel (out, in, height, width): that of its largest magnitude."""
    return largest(weight, (1, 2, 3), bits)


__all__ = [
    "candidates",
    "fake_quantize",
    "largest",
    "search_convolution",
    "search_linear",
    "search_product",
    "search_product_after_softmax",
]
