"""Packed layers: a bit for each weight, two values for each filter.

A filter has the values `levels[f, 0]` where its bit is 0 and `levels[f, 1]` where it is 1, that is m ± a with their
mean m and half their difference a; an input is φ·(s + o) for a sign s, see `levels()` of the activation rules. So with
bits b = ±1 and sums over the kernel positions inside of the image

    y = φ·a·Σ s·b + φ·m·Σ s + (φ·o·(a·Σ b + m·N) + bias)

where the first two sums are counted on bits, and the last term depends on the weights and the border alone.
"""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ...kernels.native_geometry import Geometry, border_masks, check_channels
from ...kernels.native_library import available
from ...kernels.native_packed import pack_bits, packed_conv2d, sign_words, unpack_bits, unpacked_conv2d
from ...modeling.layers.binary import ACTIVATION_RULES
from ...modeling.layers.untrainable import refusal, without_gradient

#: Why a packed model refuses to be trained.
REFUSAL = "has packed weights, which cannot be trained: train the model that was packed."
#: Why no gradient flows back through one.
NO_GRADIENT = "has packed weights, which no gradient flows through: take it of the model that was packed."
#: Shapes of inputs whose tables of the border a layer keeps.
_MOST_TABLES = 8


class _Scales:
    """What follows from a layer's weights, in one dtype: the kernel's words or the bits, and the scales."""

    def __init__(self, layer: "PackedLayer", dtype: torch.dtype):
        lower, upper, factor, offset = layer.binarizer.levels()
        if not math.isfinite(factor) or factor == 0:
            raise ValueError(f"binarizer: a factor of {factor} has no two levels; accepted are finite ones but 0.")
        device = layer.levels.device
        self.lower, self.upper = lower, upper
        positive = layer.positive()
        self.native = device.type == "cpu" and available()
        self.weight = sign_words(positive) if self.native else positive
        levels = layer.levels.double()
        gain, mean = factor * (levels[:, 1] - levels[:, 0]) / 2, factor * (levels[:, 1] + levels[:, 0]) / 2
        self.gain, self.mean = gain.to(dtype), mean.to(dtype)
        bias = torch.zeros_like(gain) if layer.bias is None else layer.bias.double()
        # Of each kernel position: what the offset adds where it lies inside of the image.
        signs = (positive.double() * 2 - 1).sum(1)
        inside = offset * (gain[:, None, None] * signs + mean[:, None, None] * positive.shape[1])
        self._of_position, self._bias, self._tables = inside, bias, {}

    def border(self, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The last term for each case of rows and columns, (cases, cases, out), and the cases."""
        key = (geometry.height, geometry.width)
        tables = self._tables.get(key)
        if tables is None:
            rows, columns, *cases = (t.to(self._bias.device) for t in border_masks(geometry))
            shift = torch.einsum("ry,cx,fyx->rcf", rows, columns, self._of_position) + self._bias
            tables = (shift.to(self.gain.dtype).contiguous(), *cases)
            kept = dict(list(self._tables.items())[1 - _MOST_TABLES :])
            self._tables = kept | {key: tables}
        return tables


class PackedLayer(nn.Module):
    """What packed convolutions and linear layers share.

    Args:
        shape: of the weight, (out, in, kernel height, kernel width) or (out, in).
        activations: the rule of the inputs; with "real" the weights are unpacked in every call.
        bias: whether there is one.
    """

    def __init__(self, shape: tuple[int, ...], activations: str, bias: bool, device=None, dtype=None):
        super().__init__()
        options = {"device": device, "dtype": dtype}
        self.shape, self.activations = tuple(shape), activations
        values = math.prod(self.shape[1:])
        self.register_buffer("bits", torch.zeros(shape[0], -(-values // 8), dtype=torch.uint8, device=device))
        self.register_buffer("levels", torch.zeros(shape[0], 2, **options))
        self.bias = nn.Parameter(torch.zeros(shape[0], **options), requires_grad=False) if bias else None
        self.binarizer = ACTIVATION_RULES[activations]().to(**options).requires_grad_(False).eval()
        self.training = False
        self._derived = None

    def take(self, layer: nn.Module, values: tuple[torch.Tensor, torch.Tensor]) -> "PackedLayer":
        """The bits and levels `values`, the bias and the activation rule's parameters of `layer`; returns itself."""
        self.bits.copy_(pack_bits(values[0]))
        self.levels.copy_(values[1])
        if self.bias is not None:
            self.bias.data.copy_(layer.bias.detach())
        if isinstance(getattr(layer, "binarizer", None), nn.Module):
            self.binarizer.load_state_dict(layer.binarizer.state_dict())
        return self

    def precision(self) -> str:
        """What weights and inputs have of values, for model cards."""
        return f"weights 1 bit, inputs {self.binarizer.precision}"

    def positive(self) -> torch.Tensor:
        """The bits in the shape of a convolution's weight, bool."""
        bits = unpack_bits(self.bits, math.prod(self.shape[1:])).view(self.shape)
        return bits if len(self.shape) == 4 else bits[:, :, None, None]

    @property
    def weight(self) -> torch.Tensor:
        """The weights that the bits stand for, exactly those that were packed."""
        bits = unpack_bits(self.bits, math.prod(self.shape[1:]))
        return torch.where(bits, self.levels[:, 1:], self.levels[:, :1]).view(self.shape)

    def train(self, mode: bool = True):
        if mode:
            raise refusal(f"{type(self).__name__} {REFUSAL}")
        return super().train(mode)

    def __getstate__(self):
        return self.__dict__ | {"_derived": None}

    def _scales(self, dtype: torch.dtype) -> _Scales:
        """What follows from the weights; made anew whenever one of them is another tensor or was changed in place
        (which torch does not count for changes of `.data`)."""
        tensors = [self.bits, self.levels, *self.parameters()]
        key = (dtype, *((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors))
        derived = self._derived
        if derived is None or derived[0] != key:
            derived = self._derived = (key, _Scales(self, dtype))
        return derived[1]

    def _convolve(self, inputs: torch.Tensor, stride, padding, dilation, channels_first: bool) -> torch.Tensor:
        """(batch, in, height, width) -> (batch, height', width', out), or (batch, out, height', width')."""
        options = {"stride": stride, "padding": padding, "dilation": dilation, "channels_first": channels_first}
        compute = partial(self._on_bits, **options)
        return without_gradient(compute, inputs, f"{type(self).__name__} {NO_GRADIENT}")

    @torch.compiler.disable
    def _on_bits(self, inputs: torch.Tensor, stride, padding, dilation, channels_first: bool) -> torch.Tensor:
        check_channels(inputs, self.shape[1])
        dtype = inputs.dtype
        if dtype in (torch.float16, torch.bfloat16):
            inputs = inputs.float()
        scales = self._scales(inputs.dtype)
        kernel = self.shape[2:] or (1, 1)
        geometry = [list(sizes) for sizes in (stride, padding, dilation)]
        shift, *cases = scales.border(Geometry.of(inputs.shape, self.shape[0], kernel, *geometry))
        tables = (scales.gain, scales.mean, shift, *cases, scales.lower, scales.upper)
        if scales.native:
            return packed_conv2d(inputs, scales.weight, *tables, list(kernel), *geometry, channels_first).to(dtype)
        return unpacked_conv2d(inputs, scales.weight, *tables, *geometry, channels_first).to(dtype)

    def _computes_on_values(self) -> bool:
        """Real inputs have no bits, and exported programs have operators of their runtime only."""
        return self.activations == "real" or torch.compiler.is_exporting() or torch.jit.is_tracing()


class PackedConv2d(PackedLayer):
    """A binary convolution on bits, with zero padding and without groups."""

    def __init__(self, shape, activations, bias, stride, padding, dilation, **options):
        super().__init__(shape, activations, bias, **options)
        self.stride, self.padding, self.dilation = stride, padding, dilation

    @classmethod
    def like(cls, layer: nn.Conv2d, activations: str, **options) -> "PackedConv2d":
        """An empty one with the sizes of `layer`."""
        geometry = (layer.stride, layer.padding, layer.dilation)
        return cls(layer.weight.shape, activations, layer.bias is not None, *geometry, **options)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self._computes_on_values():
            inputs = self.binarizer(hidden_states)
            return F.conv2d(inputs, self.weight, self.bias, self.stride, self.padding, self.dilation)
        # Whoever gave the usual memory layout may rely on getting it back.
        usual = hidden_states.is_contiguous()
        output = self._convolve(hidden_states, self.stride, self.padding, self.dilation, usual)
        return output.contiguous() if usual else output.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{self.shape}, activations={self.activations}, stride={self.stride}, padding={self.padding}"


class PackedLinear(PackedLayer):
    """A binary linear layer on bits."""

    @classmethod
    def like(cls, layer: nn.Linear, activations: str, **options) -> "PackedLinear":
        """An empty one with the sizes of `layer`."""
        return cls(layer.weight.shape, activations, layer.bias is not None, **options)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.shape[-1] != self.shape[1]:
            raise ValueError(f"inputs: got {tuple(hidden_states.shape)}, accepted are (..., {self.shape[1]}).")
        if self._computes_on_values():
            return F.linear(self.binarizer(hidden_states), self.weight, self.bias)
        # Each row is a pixel with its channels side by side.
        rows = hidden_states.reshape(1, 1, -1, self.shape[1]).permute(0, 3, 1, 2)
        output = self._convolve(rows, (1, 1), (0, 0), (1, 1), False)
        return output.view(*hidden_states.shape[:-1], self.shape[0])

    def extra_repr(self) -> str:
        return f"{self.shape}, activations={self.activations}"
