"""The blocks that the decoders share with LLaMA, in a form that keeps the precision of the model.

transformers' LLaMA computes norms, rotary tables and the loss in float32 whatever the model's dtype. Here a float64
model is float64 throughout, so that it can be compared with a reference to the last digit; in every other dtype the
numbers are LLaMA's own (on CPU to the last bit).
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.loss.loss_utils import ForCausalLMLoss, fixed_cross_entropy
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    eager_attention_forward,
)

from .cache_names import CACHE, given_cache
from .documents import cache_of_rows


class RMSNorm(LlamaRMSNorm):
    """Root mean square normalisation, x / √(mean(x²) + ε) · weight, over the last dimension.

    One kernel instead of LLaMA's six: less to launch for each generated token.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.dtype in (torch.bfloat16, torch.float16):
            # LLaMA rounds before it multiplies, the kernel with a weight afterwards.
            return self.weight * F.rms_norm(hidden_states, self.weight.shape, eps=self.variance_epsilon)
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


class RotaryEmbedding(LlamaRotaryEmbedding):
    """Rotary position tables for `Attention`; for a float64 model with unscaled frequencies in float64."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and signed sine, both (batch, length, 1, head size).

        The sine's first half is negative, so that the rotation needs no negated copy of the heads: see `rotate`.
        """
        if x.dtype == torch.float64 and self.rope_type == "default":
            size = 2 * self.inv_freq.shape[0]
            exponents = torch.arange(0, size, 2, dtype=torch.float64, device=x.device) / size
            angles = position_ids[..., None].double() * self.config.rope_parameters["rope_theta"] ** -exponents
            cos, sin = angles.cos(), angles.sin()
        else:
            cos, sin = (table.chunk(2, dim=-1)[0] for table in super().forward(x, position_ids))
        return torch.cat((cos, cos), dim=-1).unsqueeze(2), torch.cat((-sin, sin), dim=-1).unsqueeze(2)


def rotate(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (batch, length, heads, head size): LLaMA's numbers, in half of its operations."""
    return heads * cos + heads.roll(heads.shape[-1] // 2, dims=-1) * signed_sin


class Attention(LlamaAttention):
    """LLaMA's attention with `rotate`; weights, cache, masks and back-ends are transformers'."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        cache = given_cache(cache, past_key_values)
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)  # (batch, length, heads, head size)
        query = rotate(self.q_proj(hidden_states).view(shape), *position_embeddings).transpose(1, 2)
        key = rotate(self.k_proj(hidden_states).view(shape), *position_embeddings).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.flatten(2)), weights


class DecoderModel(LlamaModel):
    """LLaMA's decoder with blocks of its own.

    Attributes:
        block_class: takes a configuration and the number of the block.
    """

    block_class: ClassVar[type[nn.Module]]

    def __init__(self, config):
        super(LlamaModel, self).__init__(config)  # not LLaMA's own, which would build its blocks
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(self.block_class(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs,
    ):
        """As `LlamaModel`; documents that are packed into a row (`cache_of_rows`) never see each other."""
        cache = given_cache(cache, past_key_values)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=cache_of_rows(use_cache, position_ids, attention_mask, cache),
            **{CACHE: cache},
            **kwargs,
        )


def causal_lm_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor:
    """Cross entropy of the next token: transformers' own, but of float64 logits in float64.

    Args:
        logits: (batch, length, vocabulary).
        labels: (batch, length); position t is predicted at t - 1, `ignore_index` is left out.
        vocab_size: size of the last dimension of `logits`.
        num_items_in_batch: divide the sum by this instead of by the number of labels.
        shift_labels: labels that are shifted already.
    """
    if logits.dtype != torch.float64:
        return ForCausalLMLoss(logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **kwargs)
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    targets = shift_labels.reshape(-1).to(logits.device)
    return fixed_cross_entropy(logits.reshape(-1, vocab_size), targets, num_items_in_batch, ignore_index, **kwargs)
