"""A linear layer whose weight stays packed in memory."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .grid import Grid, dequantize, quantize, quantize_activations, weight_grid
from .int4 import GROUP_SIZES, is_usable, product
from .int4 import pack as pack_int4
from .int4 import unpack as unpack_int4
from .packing import pack, unpack

#: From so many rows on the weight is unpacked once and multiplied densely: that is then faster.
DENSE_ROWS = 64


def pack_linears(
    model: nn.Module, names: list[str], bits: int, group_size: int | None, symmetric: bool = True
) -> None:
    """Round the linear layers of these names to nearest, and keep them packed."""
    for name in names:
        layer = PackedLinear.from_linear(model.get_submodule(name), bits, group_size, symmetric)
        layer.prepare()
        model.set_submodule(name, layer)


class PackedLinear(nn.Module):
    """`torch.nn.Linear` with a weight of 2, 3, 4 or 8 bits.

    As it is loaded it holds the tensors of compressed-tensors' `pack-quantized`; after `prepare` what it computes
    with: on a CPU up to 4 bits the operands of torch's int4 product, which takes bfloat16 (other inputs are converted,
    and the outputs back); everywhere else the packed words, which every call unpacks.

    Args:
        in_features, out_features: sizes.
        bits: of the weight.
        group_size: inputs that share a step; None: a row has one.
        symmetric: there are no zero points.
        bias: whether there is one.
        activation_bits: the inputs are quantised, token by token.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int,
        group_size: int | None,
        symmetric: bool = True,
        bias: bool = False,
        activation_bits: int | None = None,
        dtype: torch.dtype | None = None,
        device=None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size, self.symmetric = bits, group_size, symmetric
        self.activation_bits = activation_bits
        groups = in_features // (group_size or in_features)
        words = torch.zeros(out_features, math.ceil(in_features * bits / 32), dtype=torch.int32, device=device)
        self.register_buffer("weight_packed", words)
        self.register_buffer("weight_scale", torch.ones(out_features, groups, dtype=dtype, device=device))
        self.register_buffer("weight_shape", torch.zeros(2, dtype=torch.int64, device=device))
        if not symmetric:
            zeros = torch.zeros(math.ceil(out_features * bits / 32), groups, dtype=torch.int32, device=device)
            self.register_buffer("weight_zero_point", zeros)
        own = (
            nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device), requires_grad=False) if bias else None
        )
        self.register_parameter("bias", own)
        self.is_prepared = False

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, bits: int, group_size: int | None, symmetric: bool = True
    ) -> "PackedLinear":
        """Round a dense layer to nearest."""
        weight = linear.weight.detach()
        sizes = linear.in_features, linear.out_features, bits, group_size, symmetric, linear.bias is not None
        layer = cls(*sizes, dtype=weight.dtype, device=weight.device)
        grid = weight_grid(weight.float(), bits, group_size, symmetric)
        grid = Grid(grid.scale.to(weight.dtype).float(), grid.zero_point)
        layer.set_weight(quantize(weight.float(), grid, bits), grid)
        if layer.bias is not None:
            layer.bias.data = linear.bias.detach()
        return layer

    def set_weight(self, integers: torch.Tensor, grid: Grid) -> None:
        """Pack integers (rows, inputs) into the stored tensors."""
        self.weight_packed = pack(integers, self.bits)
        self.weight_scale = grid.scale.to(self.weight_scale.dtype)
        self.weight_shape = torch.tensor(integers.shape)
        if not self.symmetric:
            self.weight_zero_point = pack(grid.zero_point.T, self.bits).T.contiguous()

    def prepare(self) -> None:
        """Change the stored tensors for those of the product, where this machine has one for them."""
        size = self._product_group()
        if self.is_prepared or size is None:
            return
        scale = self.weight_scale.repeat_interleave(self._group() // size, 1)
        # integers · scale + zero of the operator is (integers - zero point) · scale.
        zeros = -self._zero_point().repeat_interleave(self._group() // size, 1) * scale
        self.register_buffer("weight_int4", pack_int4(self.integers()), persistent=False)
        operand = torch.stack([scale.T, zeros.T], -1).to(torch.bfloat16).contiguous()
        self.register_buffer("scales_and_zeros", operand, persistent=False)
        self.weight_packed = None
        self.is_prepared = True

    def _group(self) -> int:
        return self.group_size or self.in_features

    def _product_group(self) -> int | None:
        """Size of the operator's groups: those of the weight, or parts of them; None where it cannot be used."""
        if self.bits > 4 or self.weight_scale.device.type != "cpu":
            return None
        for size in GROUP_SIZES:
            if self._group() % size == 0 and is_usable(self.out_features, self.in_features, size):
                return size
        return None

    def precision(self) -> str:
        """What weights and inputs have of values, for model cards."""
        inputs = "real" if self.activation_bits is None else f"{self.activation_bits} bits"
        return f"weights {self.bits} bits, inputs {inputs}"

    def integers(self) -> torch.Tensor:
        """(rows, inputs) int8."""
        if self.is_prepared:
            return unpack_int4(self.weight_int4)
        return unpack(self.weight_packed, self.bits, self.in_features)

    def _zero_point(self) -> torch.Tensor:
        if self.symmetric:
            return torch.zeros_like(self.weight_scale)
        unpacked = unpack(self.weight_zero_point.T, self.bits, self.out_features).T
        return unpacked.to(self.weight_scale.dtype)

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(rows, inputs): the weight that the integers stand for."""
        dtype = dtype or self.weight_scale.dtype
        grid = Grid(self.weight_scale.to(dtype), self._zero_point().to(dtype))
        return dequantize(self.integers().to(dtype), grid)

    def packed_tensors(self) -> dict[str, torch.Tensor]:
        """What is stored, also after `prepare`."""
        tensors = {
            "weight_packed": pack(self.integers(), self.bits) if self.is_prepared else self.weight_packed,
            "weight_scale": self.weight_scale,
            "weight_shape": torch.tensor([self.out_features, self.in_features]),
        }
        if not self.symmetric:
            tensors["weight_zero_point"] = self.weight_zero_point
        return tensors if self.bias is None else {**tensors, "bias": self.bias.detach()}

    def to_linear(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """A dense layer of the same values."""
        weight = self.dense(dtype)
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(weight.dtype))
        return linear

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.activation_bits:
            input = quantize_activations(input, self.activation_bits).dequantized
        if not self.is_prepared:
            bias = None if self.bias is None else self.bias.to(input.dtype)
            return F.linear(input, self.dense(input.dtype), bias)
        x = input.to(torch.bfloat16)
        rows = x.numel() // self.in_features
        if rows < DENSE_ROWS and not (torch.is_grad_enabled() and input.requires_grad):
            flat = x.reshape(rows, self.in_features).contiguous()
            groups = self.scales_and_zeros.shape[0]
            output = product(flat, self.weight_int4, self.in_features // groups, self.scales_and_zeros)
            output = output.view(*input.shape[:-1], self.out_features)
        else:
            output = F.linear(x, self.dense(torch.bfloat16))
        if self.bias is not None:
            output = output + self.bias.to(output.dtype)
        return output.to(input.dtype)

    def extra_repr(self) -> str:
        how = "int4 product" if self.is_prepared else "unpacked in every call"
        grid = f"bits={self.bits}, group_size={self.group_size}, symmetric={self.symmetric}"
        return f"in_features={self.in_features}, out_features={self.out_features}, {grid}, {how}"
