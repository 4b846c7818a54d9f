"""ParameterNet's language model: LLaMA with a top-1 mixture of down projections (https://arxiv.org/abs/2306.14525).

In the gated feed-forward only the down projection is a mixture: u = act(gate(x)) · up(x) chooses one of E experts by
itself, and the output is p_e (E_e u + c_e). There is no capacity limit and no noise. Everything else is transformers'.
"""

import torch
import transformers.integrations.moe  # noqa: F401 - registers the operator of `_grouped_linear`
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.models.llama.modeling_llama import (
    LlamaForCausalLM,
    LlamaPreTrainedModel,
)
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from ..decoders.cache_names import CACHE, cache_of, given_cache
from ..decoders.modeling_decoder import Attention, DecoderModel, RMSNorm, causal_lm_loss
from .configuration_parameternet_moe import ParameterNetMoeConfig


class ParameterNetMoeRouter(nn.Module):
    """Chooses an expert for every token: logits = R u, p = softmax(logits), e = argmax p (the first of equals)."""

    def __init__(self, config: ParameterNetMoeConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_local_experts, config.intermediate_size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(batch, length, width) → logits (batch, length, experts), p_e and e, both (batch, length)."""
        logits = F.linear(hidden_states, self.weight)
        probabilities = F.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        index = probabilities.argmax(-1)
        probability = probabilities.gather(-1, index[..., None])[..., 0]
        return logits, probability.to(hidden_states.dtype), index


class ParameterNetMoeExperts(nn.Module):
    """E linear layers in one tensor; each row is multiplied by its own one only."""

    def __init__(self, config: ParameterNetMoeConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_local_experts, config.hidden_size, config.intermediate_size))
        self.bias = nn.Parameter(torch.empty(config.num_local_experts, config.hidden_size))
        if not config.expert_bias:
            self.bias = None

    def forward(self, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """rows (tokens, in), index (tokens,) → (tokens, out)."""
        if not torch.compiler.is_compiling() and rows.shape[0] == 1:  # generation: no sorting, no copy
            expert = int(index)
            return F.linear(rows, self.weight[expert], None if self.bias is None else self.bias[expert])
        order = index.argsort()  # which of an expert's rows comes first is all the same
        counts = F.one_hot(index, self.weight.shape[0]).sum(0)
        grouped = _grouped_linear(rows[order], self.weight, counts.cumsum(0).to(torch.int32))
        output = grouped[order.argsort()]
        return output if self.bias is None else output + self.bias[index].to(output.dtype)


def _grouped_linear(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """rows[ends[e - 1] : ends[e]] @ weight[e].T for every e that has rows.

    Args:
        rows: (tokens, in), sorted by expert.
        weight: (experts, out, in).
        ends: (experts,), int32.
    """
    if torch.is_autocast_enabled(rows.device.type):
        rows, weight = (t.to(torch.get_autocast_dtype(rows.device.type)) for t in (rows, weight))
    # One matrix product for each expert in use, as an operator that compiled and exported graphs can contain.
    return torch.ops.transformers.grouped_mm_fallback(rows, weight.transpose(-2, -1), offs=ends)


class ParameterNetMoeMLP(nn.Module):
    """p_e (E_e u + c_e) with u = act(gate(x)) · up(x)."""

    def __init__(self, config: ParameterNetMoeConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]
        self.router = ParameterNetMoeRouter(config)
        self.experts = ParameterNetMoeExperts(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        _, probability, index = self.router(inner)
        output = self.experts(inner.flatten(0, 1), index.flatten()).unflatten(0, index.shape)
        return probability[..., None] * output


class ParameterNetMoeDecoderLayer(GradientCheckpointingLayer):
    """h + attention(norm(h)), then h + mlp(norm(h)) with the mixture as mlp."""

    def __init__(self, config: ParameterNetMoeConfig, layer_idx: int):
        super().__init__()
        self.self_attn = Attention(config, layer_idx)
        self.mlp = ParameterNetMoeMLP(config)
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
        attention, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=given_cache(cache, past_key_values),
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = hidden_states + attention
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class ParameterNetMoePreTrainedModel(LlamaPreTrainedModel):
    config: ParameterNetMoeConfig
    _no_split_modules = ["ParameterNetMoeDecoderLayer"]
    _can_record_outputs = {
        "router_logits": OutputRecorder(ParameterNetMoeRouter, index=0),
        "hidden_states": ParameterNetMoeDecoderLayer,
        "attentions": Attention,
    }

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, (ParameterNetMoeRouter, ParameterNetMoeExperts)):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, ParameterNetMoeExperts) and module.bias is not None:
            init.zeros_(module.bias)

    @classmethod
    def from_llama(cls, model, **overrides):
        """Upcycle a dense LLaMA: the same outputs, and experts that can grow apart.

        Every expert is a copy of the down projection times the number of experts E, the router is zero: each expert
        then has the probability 1/E. (All tokens use the first expert until the router has learned.)

        Args:
            model: a `LlamaForCausalLM` or the same head as this class has; a name or a path is loaded.
            overrides: fields of `ParameterNetMoeConfig` that LLaMA does not have, such as `num_local_experts=4`.

        Raises:
            ValueError: another architecture or head, or a field that would change the outputs.
        """
        from .convert_parameternet_moe import llama_to_parameternet_moe

        return llama_to_parameternet_moe(cls, model, **overrides)


class ParameterNetMoeModel(ParameterNetMoePreTrainedModel, DecoderModel):
    """The decoder: `forward` is `LlamaModel`'s; `output_router_logits` asks for those of every layer."""

    block_class = ParameterNetMoeDecoderLayer


def balance_loss(router_logits: tuple[torch.Tensor, ...], attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """The Switch balance loss over all layers at once, as the official code computes it: 1 is perfect balance.

    For every sequence, with f the share of its (token, layer) pairs that choose an expert and P the mean probability
    of that expert: E² times the mean of f · P over sequences and experts.

    Args:
        router_logits: (batch, length, experts) for each layer.
        attention_mask: (batch, length), 0 where a token is not to be counted.
    """
    logits = torch.cat(router_logits, dim=1)
    probabilities = F.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    experts = probabilities.shape[-1]
    chosen = F.one_hot(probabilities.argmax(-1), experts).to(probabilities.dtype)
    weights = torch.ones_like(probabilities[..., :1])
    if attention_mask is not None:
        weights = attention_mask.to(probabilities).repeat(1, len(router_logits))[..., None]
    total = weights.sum(1).clamp_min(1)
    share, mean = (chosen * weights).sum(1) / total, (probabilities * weights).sum(1) / total
    return (share * mean).mean() * experts**2


@torch.no_grad()
def expert_load(router_logits: tuple[torch.Tensor, ...], attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Share of the tokens that each expert gets: (layers, experts), each row sums to 1. For the logs."""
    logits = torch.stack(router_logits)
    chosen = F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    if attention_mask is not None:
        chosen = chosen * attention_mask.to(chosen)[None, ..., None]
    counts = chosen.sum((1, 2))
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)


def _share_of_step(
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    shift_labels: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor | float:
    """What share of an optimizer step's predicted tokens this batch has: the step adds up the losses of its batches,
    which must not count the balance loss once for each of them."""
    if num_items_in_batch is None:
        return 1.0
    predicted = labels[..., 1:] if shift_labels is None else shift_labels
    return predicted.ne(-100).sum() / num_items_in_batch


class ParameterNetMoeForCausalLM(ParameterNetMoePreTrainedModel, LlamaForCausalLM):
    """The language model; in training the balance loss is part of the loss."""

    loss_function = staticmethod(causal_lm_loss)

    def __init__(self, config: ParameterNetMoeConfig):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = ParameterNetMoeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **kwargs,
    ) -> MoeCausalLMOutputWithPast:
        """As `LlamaForCausalLM`.

        Args:
            output_router_logits: return `router_logits` and `aux_loss`, the balance loss, and add
                `router_aux_loss_coef` times it to the loss. None: as the configuration says, and always in training
                with labels, so that no expert is starved by forgetting it.
            kwargs: with `num_items_in_batch`, the predicted tokens of a whole optimizer step, the cross entropy is the
                sum divided by it, and the balance loss counts by the share that this batch has.
        """
        if output_router_logits is None:
            training = self.training and labels is not None and self.config.router_aux_loss_coef > 0
            output_router_logits = self.config.output_router_logits or training
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=given_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=output_router_logits,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))

        loss = aux_loss = router_logits = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        if output_router_logits:
            router_logits = outputs.router_logits
            counts = None
            if attention_mask is not None and self.config.mask_padding_in_balance:
                counts = attention_mask[:, -router_logits[0].shape[1] :]  # with a cache it is of earlier tokens, too
            aux_loss = balance_loss(tuple(r.to(logits.device) for r in router_logits), counts)
            if labels is not None:
                weight = self.config.router_aux_loss_coef * _share_of_step(labels, **kwargs)
                loss = loss + weight * aux_loss.to(loss.dtype)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=router_logits,
            **{CACHE: cache_of(outputs)},
        )


# The heads build their decoder themselves: transformers' mixins ask AutoModel for it, which does not know the classes
# of code that came with a checkpoint.
class ParameterNetMoeForSequenceClassification(GenericForSequenceClassification, ParameterNetMoePreTrainedModel):
    """With a classifier on the last token that is no padding."""

    def __init__(self, config: ParameterNetMoeConfig):
        super(GenericForSequenceClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.model = ParameterNetMoeModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


class ParameterNetMoeForTokenClassification(GenericForTokenClassification, ParameterNetMoePreTrainedModel):
    """With a classifier on every token."""

    def __init__(self, config: ParameterNetMoeConfig):
        super(GenericForTokenClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.model = ParameterNetMoeModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class ParameterNetMoeForQuestionAnswering(GenericForQuestionAnswering, ParameterNetMoePreTrainedModel):
    """With a start and an end score for every token."""

    def __init__(self, config: ParameterNetMoeConfig):
        super(GenericForQuestionAnswering, self).__init__(config)
        self.model = ParameterNetMoeModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()
