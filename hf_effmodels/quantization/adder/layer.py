"""An adder layer on integers."""

import torch

from ...modeling.layers.adder import adder_forward
from .algorithm import quantize_activations


def quantized_adder_conv2d(
    inputs: torch.Tensor,
    levels: torch.Tensor,
    group: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    bits_activation: int,
    stride: int,
    padding: int,
    bits_weight: int | None = None,
) -> torch.Tensor:
    """y = -Σ|x̂ - ŵ| + b on levels, every group of filters with the activations quantised by its own scale.

    With equal bits that is -s/(2^n - 1)·Σ|q_a - 2·q_w| + b in integers. All groups are computed, and the filters keep
    their order.

    Args:
        inputs: non-negative, (batch, in, height, width).
        levels, group, scale, bias: as in `QuantizedAdder`.

    Raises:
        ValueError: negative inputs, which have no levels: quantise layers behind a ReLU only.
    """
    if not torch.compiler.is_compiling() and inputs.numel() and inputs.min() < 0:
        raise ValueError(
            f"inputs: got {inputs.min().item():g}, accepted are numbers from 0: only adder layers behind a ReLU can "
            "be quantised."
        )
    bits_weight = bits_activation if bits_weight is None else bits_weight
    # In units of the activations' step s/(2^n - 1), a step of the weights is 2·(2^n - 1)/(2^m - 1) of them.
    ratio = 2 * (2**bits_activation - 1) / (2**bits_weight - 1)
    parts, order = [], []
    for number, of_group in enumerate(scale):
        members = (group == number).nonzero()[:, 0]
        activations = quantize_activations(inputs, of_group, bits_activation)
        weights = levels[members].to(inputs.dtype) * ratio
        distances = adder_forward(activations, weights, (stride, stride), (padding, padding))
        parts.append(distances * (of_group / (2**bits_activation - 1)))
        order.append(members)
    output = torch.cat(parts, 1)[:, torch.cat(order).argsort()]
    return output + bias[:, None, None].to(output.dtype)
