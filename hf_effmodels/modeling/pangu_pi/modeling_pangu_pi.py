"""PanGu-π: LLaMA with more nonlinearity (https://arxiv.org/abs/2312.17276).

Two modules are added to LLaMA's block: the series informed activation in the gated feed-forward (section 3.2,
equations 7 and 9) and the augmented shortcut beside the attention (section 3.3, equation 4). Everything else
(attention back-ends, rotary embedding, cache, masks, generation) is transformers'.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN, GELUActivation
from transformers.cache_utils import Cache
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.models.llama.modeling_llama import (
    LlamaForCausalLM,
    LlamaMLP,
    LlamaPreTrainedModel,
)

from ..decoders.cache_names import given_cache
from ..decoders.modeling_decoder import Attention, DecoderModel, RMSNorm, causal_lm_loss
from .configuration_pangu_pi import PanguPiConfig


def series_activation(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, functions: Sequence[Callable]
) -> torch.Tensor:
    """Series informed activation y = Σ_i σ_i(a_i x + b_i), equation 7.

    Args:
        x: (..., channels).
        scale, bias: (terms, channels), in any dtype; they are used in that of `x`.
        functions: σ_i, elementwise, one for each term.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    if scale.dtype != x.dtype:  # autocast
        scale, bias = scale.to(x.dtype), bias.to(x.dtype)
    # A compiler fuses the plain formula and recomputes what it wants itself.
    if torch.compiler.is_compiling():
        return _series(x, scale, bias, functions)
    if torch.is_grad_enabled():
        return _RecomputedSeries.apply(x, scale, bias, functions)
    return _series_in_place(x, scale, bias, functions)


def _series(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, functions: Sequence[Callable]) -> torch.Tensor:
    total = None
    for function, a, b in zip(functions, scale, bias, strict=True):
        term = function(torch.addcmul(b, x, a))
        total = term if total is None else total + term
    return total


def _series_in_place(x, scale, bias, functions):
    """`_series` without autograd: nothing but the terms themselves is allocated."""
    if x.numel() <= _FEW and all(isinstance(function, _SILU) for function in functions):
        # A token at a time what counts is the number of kernels, not their work: all terms at once.
        return F.silu(torch.addcmul(bias, x.unsqueeze(-2), scale), inplace=True).sum(-2)
    total = None
    for function, a, b in zip(functions, scale, bias, strict=True):
        inner = torch.addcmul(b, x, a)
        term = F.silu(inner, inplace=True) if isinstance(function, _SILU) else function(inner)
        total = term if total is None else total.add_(term)
    return total


_FEW = 1 << 15
_SILU = (nn.SiLU, type(ACT2FN["silu"]))  # transformers has a class of its own for the same function


class _RecomputedSeries(torch.autograd.Function):
    """The series with only x kept for the backward pass: as much memory as a plain activation, whatever n."""

    @staticmethod
    def forward(ctx, x, scale, bias, functions):
        ctx.save_for_backward(x, scale, bias)
        ctx.functions = functions
        return _series_in_place(x, scale, bias, functions)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        x, scale, bias = ctx.saved_tensors
        tokens = tuple(range(x.ndim - 1))
        grad_x, grad_scale, grad_bias = None, torch.empty_like(scale), torch.empty_like(bias)
        learned = any(ctx.needs_input_grad[1:3])  # where others are trained alone, these take a third of the time
        for i, function in enumerate(ctx.functions):
            inner = torch.addcmul(bias[i], x, scale[i])
            grad = _gradient(function, inner, grad_output)
            if learned:
                grad_bias[i] = grad.sum(tokens)
                grad_scale[i] = torch.mul(grad, x, out=inner).sum(tokens)
            grad_x = grad.mul_(scale[i]) if grad_x is None else grad_x.addcmul_(grad, scale[i])
        return grad_x, grad_scale if learned else None, grad_bias if learned else None, None


def _gradient(function: Callable, inner: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
    """Gradient of `function` at `inner`, a tensor of its own."""
    if isinstance(function, _SILU):
        return torch.ops.aten.silu_backward(grad_output, inner)
    with torch.enable_grad():
        leaf = inner.detach().clone().requires_grad_()
        (grad,) = torch.autograd.grad(function(leaf), leaf, grad_output)
    return grad.clone()


class PanguPiSeriesActivation(nn.Module):
    """Series informed activation with a learned scale and bias for each channel and term.

    It starts as its first function alone: scale (1, 0, …), bias 0, and the usual functions vanish at 0.
    """

    def __init__(self, activations: Sequence[str], size: int):
        super().__init__()
        self.functions = tuple(ACT2FN[name] for name in activations)  # they have no parameters
        self.scale = nn.Parameter(torch.empty(len(activations), size))
        self.bias = nn.Parameter(torch.empty(len(activations), size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return series_activation(hidden_states, self.scale, self.bias, self.functions)

    def initial_scale(self) -> torch.Tensor:
        scale = torch.zeros_like(self.scale)
        scale[0] = 1
        return scale


class PanguPiMLP(LlamaMLP):
    """Gated feed-forward down(σ(gate(x)) · up(x)) with the series as σ."""

    def __init__(self, config: PanguPiConfig):
        super().__init__(config)
        if config.series_activations:
            self.act_fn = PanguPiSeriesActivation(config.series_activations, config.intermediate_size)


class PanguPiAugmentedShortcut(nn.Module):
    """Bottleneck T(z) = up(act(down(z))) beside the attention, without biases. It starts as zero."""

    def __init__(self, config: PanguPiConfig):
        super().__init__()
        self.down_proj = nn.Linear(config.hidden_size, config.augmented_shortcut_size, bias=False)
        self.act_fn = ACT2FN[config.augmented_shortcut_act]
        self.up_proj = nn.Linear(config.augmented_shortcut_size, config.hidden_size, bias=False)
        # A mark on the layer itself: transformers asks only modules with parameters of their own for their start.
        self.up_proj.starts_as_zero = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.down_proj(hidden_states)
        is_gelu = isinstance(self.act_fn, GELUActivation)
        return self.up_proj(_gelu(hidden_states) if is_gelu else self.act_fn(hidden_states))


def _gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU. PyTorch's kernel for CPUs prepares a oneDNN primitive in every call, which for the numbers of one token
    takes several times as long as the formula."""
    few = x.numel() <= _FEW_IN_BOTTLENECK and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if few and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return torch.erf(x * 0.5**0.5).add_(1).mul_(x).mul_(0.5)
    return F.gelu(x)


_FEW_IN_BOTTLENECK = 1 << 9


class PanguPiDecoderLayer(GradientCheckpointingLayer):
    """h + attention(z) + Σ_t T_t(z) with z = norm(h), then h + mlp(norm(h))."""

    def __init__(self, config: PanguPiConfig, layer_idx: int):
        super().__init__()
        self.self_attn = Attention(config, layer_idx)
        self.augmented_shortcuts = nn.ModuleList(
            PanguPiAugmentedShortcut(config) for _ in range(config.num_augmented_shortcuts)
        )
        self.shortcuts_see_residual = config.augmented_shortcut_input == "residual"
        self.mlp = PanguPiMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        residual = hidden_states
        normalized = self.input_layernorm(hidden_states)
        attention, _ = self.self_attn(
            hidden_states=normalized,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=given_cache(cache, past_key_values),
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = residual + attention
        source = residual if self.shortcuts_see_residual else normalized
        for shortcut in self.augmented_shortcuts:
            hidden_states = hidden_states + shortcut(source)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class PanguPiPreTrainedModel(LlamaPreTrainedModel):
    config: PanguPiConfig
    _no_split_modules = ["PanguPiDecoderLayer"]
    _can_record_outputs = {"hidden_states": PanguPiDecoderLayer, "attentions": Attention}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        # Zero shortcuts and a series that is its first function: the block starts as LLaMA's.
        if getattr(module, "starts_as_zero", False):
            init.zeros_(module.weight)
        elif isinstance(module, PanguPiSeriesActivation):
            init.copy_(module.scale, module.initial_scale())
            init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not to be decayed: scale and bias of the series are no weights."""
        return {name for name, _ in self.named_parameters() if name.endswith((".act_fn.scale", ".act_fn.bias"))}

    @classmethod
    def from_llama(cls, model, **overrides):
        """A PanGu-π with a LLaMA's weights and the same outputs: both modules start as if they were not there.

        Args:
            model: a `LlamaForCausalLM` or the same head as this class has (Mistral without sliding window works too).
                A name or a path is loaded with this class's head by `from_pretrained`.
            overrides: fields of `PanguPiConfig` that LLaMA does not have, such as `num_augmented_shortcuts=2`.

        Raises:
            ValueError: another architecture or head, a field that would change the outputs, or an activation series
                that does not start as the model's own activation.
        """
        from .convert_pangu_pi import llama_to_pangu_pi

        return llama_to_pangu_pi(cls, model, **overrides)

    def to_llama(self):
        """The same network as transformers' LLaMA, where neither module does anything.

        Raises:
            ValueError: a series or a shortcut is in use; the message names the first layer.
        """
        from .convert_pangu_pi import pangu_pi_to_llama

        return pangu_pi_to_llama(self)


class PanguPiModel(PanguPiPreTrainedModel, DecoderModel):
    """The decoder: `forward` is `LlamaModel`'s, the blocks are PanGu-π's."""

    block_class = PanguPiDecoderLayer


class PanguPiForCausalLM(PanguPiPreTrainedModel, LlamaForCausalLM):
    """PanGu-π with a language modelling head; `forward` and generation are `LlamaForCausalLM`'s."""

    loss_function = staticmethod(causal_lm_loss)

    def __init__(self, config: PanguPiConfig):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = PanguPiModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


# The heads build their decoder themselves: transformers' mixins ask AutoModel for it, which does not know the classes
# of code that came with a checkpoint.
class PanguPiForSequenceClassification(GenericForSequenceClassification, PanguPiPreTrainedModel):
    """PanGu-π with a classifier on the last token that is no padding."""

    def __init__(self, config: PanguPiConfig):
        super(GenericForSequenceClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.model = PanguPiModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


class PanguPiForTokenClassification(GenericForTokenClassification, PanguPiPreTrainedModel):
    """PanGu-π with a classifier on every token."""

    def __init__(self, config: PanguPiConfig):
        super(GenericForTokenClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.model = PanguPiModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class PanguPiForQuestionAnswering(GenericForQuestionAnswering, PanguPiPreTrainedModel):
    """PanGu-π with a start and an end score for every token."""

    def __init__(self, config: PanguPiConfig):
        super(GenericForQuestionAnswering, self).__init__(config)
        self.model = PanguPiModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()
