"""An adder layer on integers."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ...kernels.native_geometry import check_channels
from ...kernels.native_library import available
from ...kernels.native_packed import byte_distances, byte_words
from ...modeling.layers.adder import AdderConv2d, adder_conv2d, adder_forward
from ...modeling.layers.untrainable import refusal, without_gradient
from .algorithm import QuantizedAdder, quantize_activations
from .configuration_adder import AdderQuantConfig

#: Why a quantised network refuses to be trained.
REFUSAL = "has integer weights, which cannot be trained: train what was quantised."
#: Why no gradient flows back through one.
NO_GRADIENT = "has integer weights, which no gradient flows through: take it of what was quantised."


def check_inputs(inputs: torch.Tensor, name: str = "inputs") -> None:
    """ValueError for negative inputs, which have no levels, and for those that are not finite."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not inputs.numel():
        return
    for bound in (bound.item() for bound in inputs.aminmax()):
        if not 0 <= bound < math.inf:
            raise ValueError(
                f"{name}: got {bound:g}, accepted are finite numbers from 0: only adder layers behind a ReLU can be "
                "quantised."
            )


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
        ValueError: negative inputs, which have no levels (quantise layers behind a ReLU only), or not finite ones.
    """
    check_channels(inputs, levels.shape[1])
    check_inputs(inputs)
    bits_weight = bits_activation if bits_weight is None else bits_weight
    # In units of the activations' step s/(2^n - 1), a step of the weights is 2·(2^n - 1)/(2^m - 1) of them.
    ratio = 2 * (2**bits_activation - 1) / (2**bits_weight - 1)
    if torch.compiler.is_exporting():
        # A program's shapes are fixed: every group for all filters, of which its own are taken.
        output = 0
        for number, of_group in enumerate(scale.unbind()):
            activations = quantize_activations(inputs, of_group, bits_activation)
            distances = adder_conv2d(activations, levels.to(inputs.dtype) * ratio, stride, padding, eta=None)
            own = (group == number).to(inputs.dtype) * of_group / (2**bits_activation - 1)
            output = output + distances * own[:, None, None]
        return output + bias[:, None, None]
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


def distances_of_bytes(
    inputs: torch.Tensor,
    levels: torch.Tensor,
    group: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    bits: int,
    stride: int,
    padding: int,
) -> torch.Tensor:
    """`quantized_adder_conv2d` of equal bits by the native kernel: sums of absolute differences of unsigned bytes.

    A negative level adds |q_a - 2·q_w| = q_a + 2·|q_w|: in bytes it is 0, and 2·|q_w| is a constant of the filter.
    """
    check_channels(inputs, levels.shape[1])
    check_inputs(inputs)
    geometry = ([levels.shape[2], levels.shape[3]], [stride] * 2, [padding] * 2)
    parts, order = [], []
    for number, of_group in enumerate(scale):
        members = (group == number).nonzero()[:, 0]
        activations = quantize_activations(inputs, of_group, bits).to(torch.uint8)
        activations = F.pad(activations.permute(0, 2, 3, 1), (0, -inputs.shape[1] % 8)).contiguous()
        doubled = 2 * levels[members].to(torch.int16)
        constant = doubled.clamp(max=0).sum((1, 2, 3)).to(inputs.dtype)
        words = byte_words(doubled.clamp(min=0).to(torch.uint8))
        distances = byte_distances(activations, words, torch.ones_like(constant), constant, *geometry)
        parts.append(distances * (of_group / (2**bits - 1)))
        order.append(members)
    output = torch.cat(parts, 3)[..., torch.cat(order).argsort()] + bias.to(inputs.dtype)
    return output.permute(0, 3, 1, 2).contiguous()


def pack_nibbles(levels: torch.Tensor) -> torch.Tensor:
    """Levels from -8 to 7, (out, n) int8 -> (out, ⌈n / 2⌉) uint8; the first of two has the low bits."""
    pairs = F.pad((levels + 8).to(torch.uint8), (0, levels.shape[1] % 2)).unflatten(1, (-1, 2))
    return pairs[:, :, 0] | pairs[:, :, 1] << 4


def unpack_nibbles(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The inverse of `pack_nibbles`: (out, bytes) -> (out, count) int8."""
    pairs = torch.stack([packed & 15, (packed & 240).float() / 16], 2)  # no shifts: ONNX has none of bytes
    return pairs.flatten(1)[:, :count].to(torch.int8) - 8


class QuantizedAdderConv2d(nn.Module):
    """An adder layer whose weights are stored as integers, of up to 4 bits two in a byte, and computed with as such.

    Args:
        like: the layer in whose place it stands; its factor and bias, those of a folded batch norm, stay.
        config: bits and number of groups.
    """

    def __init__(self, like: AdderConv2d, config: AdderQuantConfig):
        super().__init__()
        self.shape, self.stride, self.padding = tuple(like.weight.shape), like.stride, like.padding
        self.bits, self.activation_bits = config.bits, config.activation_bits
        out, values = self.shape[0], math.prod(self.shape[1:])
        options = {"device": like.weight.device}
        size, integer = (-(-values // 2), torch.uint8) if self.bits <= 4 else (values, torch.int8)
        self.register_buffer("integers", torch.zeros(out, size, dtype=integer, **options))
        self.register_buffer("group", torch.zeros(out, dtype=torch.uint8, **options))
        options["dtype"] = like.weight.dtype
        self.register_buffer("group_scale", torch.ones(config.n_groups, **options))
        self.register_buffer("clamp_bias", torch.zeros(out, **options))
        self.scale, self.bias = like.scale, like.bias
        self.training = False

    def take(self, quantized: QuantizedAdder) -> "QuantizedAdderConv2d":
        """The integers and scales of `quantize_weights`; returns itself."""
        levels = quantized.levels.flatten(1)
        self.integers.copy_(pack_nibbles(levels) if self.bits <= 4 else levels)
        self.group.copy_(quantized.group)
        self.group_scale.copy_(quantized.scale)
        self.clamp_bias.copy_(quantized.bias)
        return self

    def precision(self) -> str:
        """What weights and inputs have of values, for model cards."""
        return f"sums of |x - w| for products, weights {self.bits} bits, inputs {self.activation_bits} bits"

    def levels(self) -> torch.Tensor:
        """The weights' integers, in the shape of the weight, int8."""
        count = math.prod(self.shape[1:])
        levels = unpack_nibbles(self.integers, count) if self.bits <= 4 else self.integers
        return levels.view(self.shape)

    @property
    def weight(self) -> torch.Tensor:
        """What the integers stand for, after the clamp."""
        step = 2 * self.group_scale / (2**self.bits - 1)
        return self.levels().to(step.dtype) * step[self.group.long()][:, None, None, None]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return without_gradient(self._distances, hidden_states, f"QuantizedAdderConv2d {NO_GRADIENT}")

    def _distances(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        if dtype in (torch.float16, torch.bfloat16):
            hidden_states = hidden_states.float()
        tables = (self.levels(), self.group.long(), self.group_scale, self.clamp_bias)
        geometry = (self.activation_bits, self.stride, self.padding)
        if self._native(hidden_states):
            output = distances_of_bytes(hidden_states, *tables, *geometry)
        else:
            output = quantized_adder_conv2d(hidden_states, *tables, *geometry, self.bits)
        if self.scale is not None:
            output = output * self.scale[:, None, None]
        if self.bias is not None:
            output = output + self.bias[:, None, None]
        return output.to(dtype)

    def _native(self, inputs: torch.Tensor) -> bool:
        computes = inputs.device.type == "cpu" and self.bits == self.activation_bits
        return computes and not (torch.compiler.is_compiling() or torch.jit.is_tracing()) and available()

    def train(self, mode: bool = True):
        if mode:
            raise refusal(f"QuantizedAdderConv2d {REFUSAL}")
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"{self.shape}, bits={self.bits}, activation_bits={self.activation_bits}, stride={self.stride}"
