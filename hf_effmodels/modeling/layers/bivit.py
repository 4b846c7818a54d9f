"""BiViT (https://arxiv.org/abs/2211.07091): binary linear layers, softmax-aware binary attention, and quantisers.

Layers to build with, and to put into any vision transformer of transformers (`binarize_transformer`). Only layers are
public of the official work: no network, no schedule, no weights.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from .binary import centered_signs, clip_derivative, identity_derivative, sign, straight_through
from .finite import check_finite
from .left_alone import list_of_names

#: Name of the attention among transformers' (`config._attn_implementation`).
ATTENTION = "softmax_aware_binary"

# --------------------------------------------------------------------------------------------------- quantisers


def clipped_sign(inputs: torch.Tensor) -> torch.Tensor:
    """sign(x), 0 for 0; the gradient passes where |x| < 1."""
    return sign(inputs, clip_derivative)


def zero_one(inputs: torch.Tensor, scaled: bool = False) -> torch.Tensor:
    """1 where x > 0, else 0; the gradient passes where |x| < 1. `scaled`: times the mean of the positive entries of
    the whole tensor, a constant in the backward pass."""
    positive = inputs > 0
    values = positive.to(inputs.dtype)
    if scaled:
        values = values * (inputs.detach()[positive].mean() if positive.any() else 0)
    return straight_through(inputs, values, clip_derivative)


def softmax_aware_mask(probabilities: torch.Tensor, threshold: float = 0.25) -> torch.Tensor:
    """1 where a probability is at least `threshold` times the greatest of its row (last axis), else 0."""
    return (probabilities >= threshold * probabilities.amax(-1, keepdim=True)).to(probabilities.dtype)


def softmax_aware(logits: torch.Tensor, threshold: float = 0.25) -> torch.Tensor:
    """`softmax_aware_mask` of softmax(logits), with the gradient of the softmax: what the attention computes."""
    probabilities = logits.softmax(-1)
    return straight_through(probabilities, softmax_aware_mask(probabilities, threshold), identity_derivative)


def softmax_aware_quantizer(logits: torch.Tensor, threshold: float = 0.25) -> torch.Tensor:
    """The same as the quantiser by itself has it: the gradient passes where |logit| < 1."""
    return straight_through(logits, softmax_aware_mask(logits.softmax(-1), threshold), clip_derivative)


def one_hot(logits: torch.Tensor) -> torch.Tensor:
    """1 for the greatest of each row (last axis), else 0; the gradient passes where |x| < 1."""
    values = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return straight_through(logits, values, clip_derivative)


def elastic_scale(inputs: torch.Tensor, bits: int, signed: bool) -> torch.Tensor:
    """Initial α of the elastic quantiser: 2·mean|x|/√Q_p, twice that unsigned; shape (1,)."""
    top = _range(bits, signed)[1]
    return ((2 if signed else 4) * inputs.detach().abs().mean() / math.sqrt(top)).reshape(1)


def _range(bits: int, signed: bool) -> tuple[int, int]:
    if type(bits) is not int or not 1 <= bits <= 32:
        raise ValueError(f"bits: got {bits!r}, accepted are whole numbers from 1 to 32.")
    if not signed:
        return 0, 2**bits - 1
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


class _Elastic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, alpha, bits, signed):
        low, top = _range(bits, signed)
        shift = inputs.min() if not signed and bits > 1 else inputs.new_zeros(())
        ratio = (inputs - shift) / alpha
        rounded = inputs.sign() if signed and bits == 1 else ratio.round().clamp(low, top)
        ctx.save_for_backward(inputs, ratio)
        ctx.settings = bits, signed
        return rounded * alpha + shift

    @staticmethod
    def backward(ctx, gradient):
        inputs, ratio = ctx.saved_tensors
        bits, signed = ctx.settings
        low, top = _range(bits, signed)
        inside = (ratio >= low) & (ratio <= top)
        if signed and bits == 1:
            slope = inputs.sign()
        else:
            slope = torch.where(inside, ratio.round() - ratio, ratio.clamp(low, top))
        of_alpha = (gradient * slope).sum() / math.sqrt(inputs.numel() * top)
        return gradient * inside, of_alpha.reshape(1), None, None


def elastic(inputs: torch.Tensor, alpha: torch.Tensor, bits: int, signed: bool) -> torch.Tensor:
    """Learnt-step quantiser with one scale α (1,) for the whole tensor, at least 1e-5.

    Signed: sign(x)·α for one bit, else round(x/α) clamped to [-2^(b-1), 2^(b-1) - 1] times α. Unsigned: round(x/α)
    clamped to [0, 2^b - 1] times α; for more than one bit of x less its minimum, which is added again. 32 bits: x.
    """
    if bits == 32:
        return inputs
    return _Elastic.apply(inputs, torch.where(alpha > 1e-5, alpha, 1e-5), bits, signed)


class ElasticQuantizer(nn.Module):
    """`elastic` whose scale is set by the first inputs; that it was is saved with it."""

    def __init__(self, bits: int, signed: bool):
        super().__init__()
        _range(bits, signed)
        self.bits, self.signed = bits, signed
        self.alpha = nn.Parameter(torch.ones(1))
        self.register_buffer("is_initialized", torch.tensor(False))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and not self.is_initialized:
            if self.bits != 32:
                self.alpha.data.copy_(elastic_scale(inputs, self.bits, self.signed))
            self.is_initialized.fill_(True)
        return elastic(inputs, self.alpha, self.bits, self.signed)


def min_max(
    inputs: torch.Tensor, bits: int, clip: tuple[float, float], *, symmetric: bool, layerwise: bool
) -> torch.Tensor:
    """Uniform quantiser between the extremes of x clipped to `clip`; the gradient passes strictly inside.

    Args:
        symmetric: round(x·s)/s with s = (2^(b-1) - 1)/max|x|; else x between its minimum and maximum in 2^b - 1 steps.
        layerwise: extremes of the whole tensor; else of each row (last axis), of each (batch, head) in 4 dimensions.

    Raises:
        ValueError: fewer than 1 bit, symmetric than 2, or more than 32.
    """
    least_bits = 2 if symmetric else 1
    if type(bits) is not int or not least_bits <= bits <= 32:
        raise ValueError(f"bits: got {bits!r}, accepted are whole numbers from {least_bits} to 32.")
    low, high = clip
    clipped = inputs.clamp(low, high)
    axes = tuple(range(inputs.ndim)) if layerwise else (-2, -1) if inputs.ndim == 4 else (-1,)
    if symmetric:
        largest = clipped.abs().amax(axes, keepdim=True)
        scale = (2 ** (bits - 1) - 1) / torch.where(largest > 0, largest, 1)
        values = (clipped * scale).round() / scale
    else:
        least, span = clipped.amin(axes, keepdim=True), 0
        span = clipped.amax(axes, keepdim=True) - least + 1e-8
        values = ((clipped - least) / span * (2**bits - 1)).round() / (2**bits - 1) * span + least
    return straight_through(inputs, values, lambda x: ((x > low) & (x < high)).to(x.dtype))


# -------------------------------------------------------------------------------------------------------- layers


class BiVitLinear(nn.Linear):
    """A linear layer with binary weights and a scale for each output: y = x·sign(W - mean of the row)ᵀ·s + bias.

    Args:
        scale: "mean" (mean|W| of the row, a constant), "learned" (a parameter `scaling_factor` (out, 1), which the
            first forward pass sets to that where it is zero), or None: the weights stay real.
        binary_inputs: x is sign(x), the gradient passing where |x| < 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scale: str | None = "learned",
        binary_inputs: bool = True,
        **kwargs,
    ):
        if scale not in ("mean", "learned", None):
            raise ValueError(f"scale: got {scale!r}, accepted are 'mean', 'learned' and None.")
        super().__init__(in_features, out_features, bias, **kwargs)
        self.scale, self.binary_inputs = scale, binary_inputs
        if scale != "mean":
            nn.init.uniform_(self.weight, -0.015, 0.015)
        if scale == "learned":
            options = {"device": self.weight.device, "dtype": self.weight.dtype}
            self.scaling_factor = nn.Parameter(torch.zeros(out_features, 1, **options))
            self.register_buffer("is_initialized", torch.tensor(False, device=self.weight.device))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.binary_inputs:
            check_finite(self, hidden_states)
            hidden_states = clipped_sign(hidden_states)
        if self.scale is None:
            return F.linear(hidden_states, self.weight, self.bias)
        output = F.linear(hidden_states, centered_signs(self.weight)) * self._scale()[:, 0]
        return output if self.bias is None else output + self.bias

    def _scale(self) -> torch.Tensor:
        if self.scale == "mean":
            return self.weight.detach().abs().mean(1, keepdim=True)
        if not torch.compiler.is_exporting():
            self.begin_scale()
        return self.scaling_factor

    def precision(self) -> str:
        """What weights and inputs have of values in the computation, for model cards."""
        weights, inputs = "real" if self.scale is None else "1 bit", "1 bit" if self.binary_inputs else "real"
        return f"weights {weights}, inputs {inputs}"

    def begin_scale(self) -> None:
        """Let a learnt scale that nothing has set yet begin at mean|W|, as the first forward pass does."""
        if self.scale == "learned" and not self.is_initialized:
            if not self.scaling_factor.any():
                self.scaling_factor.data.copy_(self.weight.detach().abs().mean(1, keepdim=True))
            self.is_initialized.fill_(True)


class BiVitAttention(nn.Module):
    """Self-attention of (batch, tokens, width) on signs of queries, keys and values with a binary attention matrix.

    Args:
        softmax_aware: a row keeps what is at least `threshold` times its greatest probability, learnt scales in the
            linear layers; else (the baseline) positive logits, and scales mean|W|. Rows are not normalised.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        softmax_aware: bool = True,
        threshold: float = 0.25,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads: got {num_heads}, which does not divide the width {dim}.")
        scale = "learned" if softmax_aware else "mean"
        self.num_heads, self.softmax_aware, self.threshold = num_heads, softmax_aware, threshold
        self.qkv = BiVitLinear(dim, 3 * dim, bias, scale=scale)
        self.proj = BiVitLinear(dim, dim, scale=scale)
        self.attention_dropout, self.dropout = nn.Dropout(attention_dropout), nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = (clipped_sign(part) for part in qkv.permute(2, 0, 3, 1, 4))
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        mask = softmax_aware(logits, self.threshold) if self.softmax_aware else zero_one(logits)
        output = (self.attention_dropout(mask) @ value).transpose(1, 2).flatten(2)
        return self.dropout(self.proj(output))


class BiVitMlp(nn.Module):
    """Two binary linear layers with GELU between them; `scale` and `binary_inputs` as of `BiVitLinear`."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        scale: str = "learned",
        binary_inputs: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.fc1 = BiVitLinear(in_features, hidden_features, scale=scale, binary_inputs=binary_inputs)
        self.fc2 = BiVitLinear(hidden_features, in_features, scale=scale, binary_inputs=binary_inputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(hidden_states)))))


# ------------------------------------------------------------------------------------- any vision transformer


def softmax_aware_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    threshold: float = 0.25,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' attention interface: signs of queries, keys and values, the softmax-aware mask of the logits.

    A mask or a bias of relative positions is added to the logits, as in any attention.

    Args:
        query, key, value: (batch, heads, tokens, width of a head).

    Returns:
        (batch, tokens, heads, width of a head), and the mask (batch, heads, tokens, tokens).
    """
    for part in (query, key, value):
        check_finite(module, part)
    query, key, value = clipped_sign(query), clipped_sign(key), clipped_sign(value)
    logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        logits = logits + attention_mask
    mask = softmax_aware(logits, threshold)
    mask = F.dropout(mask, dropout, module.training)
    return (mask @ value).transpose(1, 2).contiguous(), mask


def binarize_transformer(
    model: nn.Module,
    *,
    attention: bool = True,
    scale: str = "learned",
    binary_inputs: bool = False,
    skip: Iterable[str] = (),
) -> nn.Module:
    """Give the blocks of a vision transformer of transformers binary linear layers, in place; they keep their weights.

    What stands outside of the blocks (patch embedding, classifier, ...) stays real, as do the layers of `skip`.

    Args:
        model: a `PreTrainedModel` such as ViT, DeiT, Swin, BEiT.
        attention: `softmax_aware_attention`, too, for which the model has transformers' attention interface.
        scale, binary_inputs: as of `BiVitLinear`.
        skip: parts of names of layers to leave alone, such as "attention" or "layers.0".

    Raises:
        ValueError: the model has no linear layers in blocks, or none of a name with a part of `skip`, or no attention
            interface.
    """
    skip = list_of_names(skip)
    names = [name for name, _ in model.named_modules()]
    if unknown := [part for part in skip if not any(part in name for name in names)]:
        raise ValueError(f"skip: no module of the model has {unknown[0]!r} in its name.")
    blocks = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    chosen = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear
        and any(name.startswith(f"{block}.") for block in blocks)
        and not any(part in name for part in skip)
    }
    if not chosen and not any(isinstance(module, BiVitLinear) for module in model.modules()):
        raise ValueError(f"model: {type(model).__name__} has no linear layers in blocks to make binary.")
    binary = {name: _binary_like(layer, scale, binary_inputs) for name, layer in chosen.items()}
    if attention:
        _set_attention(model)
    for name, layer in binary.items():
        model.set_submodule(name, layer)
    return model


def _binary_like(layer: nn.Linear, scale: str | None, binary_inputs: bool) -> BiVitLinear:
    """A binary layer with the very weights of `layer`."""
    binary = BiVitLinear(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        scale=scale,
        binary_inputs=binary_inputs,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    binary.weight, binary.bias = layer.weight, layer.bias
    return binary.train(layer.training)


def _set_attention(model: nn.Module) -> None:
    """Let the model compute `softmax_aware_attention`; ValueError where it has no interface for that."""
    register_attention()
    # Where a network has no attention at all, transformers takes the name without a word.
    if getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation(ATTENTION)
        if model.config._attn_implementation == ATTENTION:
            return
    raise ValueError(
        f"attention: {type(model).__name__} does not have transformers' attention interface; accepted is "
        "attention=False, which leaves its attention real."
    )


def register_attention() -> None:
    """Make `softmax_aware_attention` known to transformers."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, softmax_aware_attention)
