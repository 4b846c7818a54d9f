"""BitLinear: a linear layer that trains weights in full precision and computes with ternary ones."""

import torch
import torch.nn.functional as F
from torch import nn

from .quantizers import quantize_activations, quantize_weight, straight_through

#: Of the norm before a layer, as in transformers' layers.
NORM_EPS = 1e-6


def bit_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: str = "mean",
    activation_bits: int | None = 8,
    share: float = 1.0,
) -> torch.Tensor:
    """y = (x_q W_qᵀ) gamma / s_x + bias; both roundings pass gradients unchanged.

    Args:
        x: (..., inputs)
        weight: (outputs, inputs)
        scale: "mean" or "median" of |W|.
        activation_bits: None leaves the activations as they are.
        share: how far the weights and activations are on the way to their quantised values, 0 to 1 (warm start).
    """
    if activation_bits is not None:
        integers, step = quantize_activations(x.detach(), activation_bits)
        x = straight_through(x, integers / step, share)
    ternary, gamma = quantize_weight(weight.detach(), scale)
    return F.linear(x, straight_through(weight, ternary * gamma, share), bias)


class BitLinear(nn.Linear):
    """`torch.nn.Linear` with ternary weights; its parameters are the full-precision ones that training moves.

    Args:
        scale: "mean" or "median".
        activation_bits: bits of the inputs, None for none.
        norm_before: normalise the input (without weights, root mean square) as the first BitNet does.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scale: str = "mean",
        activation_bits: int | None = 8,
        norm_before: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.scale, self.activation_bits, self.norm_before = scale, activation_bits, norm_before
        #: Not a parameter of one call: a schedule sets it for the whole training run.
        self.share = 1.0

    def precision(self) -> str:
        """What weights and inputs have of values in the computation, for model cards."""
        inputs = "real" if self.activation_bits is None else f"{self.activation_bits} bits"
        return f"weights -1, 0 and 1, inputs {inputs}"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.norm_before:
            input = F.rms_norm(input, input.shape[-1:], eps=NORM_EPS)
        options = {"scale": self.scale, "activation_bits": self.activation_bits, "share": self.share}
        return bit_linear(input, self.weight, self.bias, **options)

    def extra_repr(self) -> str:
        options = f"scale={self.scale}, activation_bits={self.activation_bits}, norm_before={self.norm_before}"
        return f"{super().extra_repr()}, {options}"
