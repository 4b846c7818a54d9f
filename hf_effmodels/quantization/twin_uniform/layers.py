"""Quantised layers: a linear layer of integers, and the attention function of quantised products."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_twin_uniform import TwinUniformConfig
from .uniform import (
    quantize_after_gelu,
    quantize_after_softmax,
    quantize_features,
    quantize_operand,
    to_integers,
    weight_groups,
)

#: The name of our attention function among transformers'.
ATTENTION = "twin_uniform"


class TwinLinear(nn.Module):
    """A linear layer whose weight is integers, and whose inputs are rounded to integers.

    Args:
        groups: row groups, column groups, input groups, whether the inputs follow a GELU.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, groups: list, config: TwinUniformConfig):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.after_gelu = config.activation_bits, bool(groups[3])
        rows, columns, inputs = groups[:3]
        self.register_buffer("integers", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_interval", torch.ones(rows, 1, columns, 1))
        self.register_buffer("input_interval", torch.ones(inputs, 1))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def of(cls, linear: nn.Linear, weight_interval, input_interval, groups: list, config: TwinUniformConfig):
        """The quantised form of a linear layer with the intervals that were found for it."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, groups, config)
        grouped = weight_groups(linear.weight.detach(), *groups[:2])
        layer.integers.copy_(to_integers(grouped, weight_interval, config.weight_bits).view_as(linear.weight))
        layer.weight_interval.copy_(weight_interval)
        layer.input_interval.copy_(input_interval)
        if linear.bias is not None:
            layer.bias.data.copy_(linear.bias)
        return layer.to(linear.weight.device)

    @property
    def weight(self) -> torch.Tensor:
        """What the integers stand for, (out_features, in_features)."""
        integers = self.integers.to(self.weight_interval.dtype)
        rows, _, columns, _ = self.weight_interval.shape
        return (weight_groups(integers, rows, columns) * self.weight_interval).view_as(integers)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        quantize = quantize_after_gelu if self.after_gelu else quantize_features
        return F.linear(quantize(inputs, self.input_interval, self.bits), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, after_gelu={self.after_gelu}"


def add_products(attention: nn.Module, heads: int, config: TwinUniformConfig) -> None:
    """Give an attention module the intervals of its products, and let it use them."""
    for name in ("query", "key", "value"):
        attention.register_buffer(f"{name}_interval", torch.ones(1, heads, 1, 1, 1, 1, 1))
    attention.register_buffer("split", torch.ones(1))
    attention.product_bits, attention.product_shifted = config.activation_bits, config.shifted
    attention.config._attn_implementation = ATTENTION


def twin_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """softmax(q kᵀ · scaling + bias) v of quantised operands; plain where the module has no intervals."""
    quantized = hasattr(module, "split")
    if quantized:
        query = quantize_operand(query, module.query_interval, module.product_bits)
        key = quantize_operand(key.transpose(2, 3), module.key_interval, module.product_bits).transpose(2, 3)
        value = quantize_operand(value, module.value_interval, module.product_bits)
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(-1)
    used = weights
    if quantized:
        used = quantize_after_softmax(weights, module.split, module.product_bits, module.product_shifted)
    return (used @ value).transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, twin_attention)
