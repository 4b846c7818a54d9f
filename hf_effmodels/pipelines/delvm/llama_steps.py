"""A token or a few by a LLaMA of transformers, without what its modules do around the arithmetic of a step.

A step of a small model is mostly calls: dozens for each layer, masks and outputs. Here a layer is some fifteen. The
file stands alone: it is copied beside the weights when a pipeline is saved.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm


def is_plain(model: nn.Module) -> bool:
    """Whether a model's layers are LLaMA's own with plain weights: no adapters, no quantised or compiled layers, no
    hooks, no scaled positions."""
    if type(model) is not LlamaForCausalLM or model.training or model.config.rope_parameters["rope_type"] != "default":
        return False
    kinds = {model.lm_head: nn.Linear, model.model.norm: LlamaRMSNorm}
    for layer in model.model.layers:
        kinds |= {layer: LlamaDecoderLayer, layer.self_attn: LlamaAttention, layer.mlp: LlamaMLP}
        kinds |= {layer.input_layernorm: LlamaRMSNorm, layer.post_attention_layernorm: LlamaRMSNorm}
        if type(layer.self_attn) is LlamaAttention and type(layer.mlp) is LlamaMLP:
            kinds |= {getattr(layer.self_attn, f"{name}_proj"): nn.Linear for name in "qkvo"}
            kinds |= {getattr(layer.mlp, f"{name}_proj"): nn.Linear for name in ("gate", "up", "down")}
    return all(type(part) is kind for part, kind in kinds.items()) and not any(
        part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
        for part in (model, model.model, *kinds)
    )


def step_function(
    model: LlamaForCausalLM, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], length: int
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """What computes a step: (batch, count) ids and the place of the first -> (batch, count, tokens) logits of the ones
    after each.

    Args:
        model: see `is_plain`.
        keys, values: of each layer, (batch, heads, length, channels); each step writes at its places and reads all
            before.
        length: the number of places.
    """
    config, layers = model.config, model.model.layers
    embed, norm, head = model.get_input_embeddings(), model.model.norm, model.lm_head
    width, eps = config.hidden_size, config.rms_norm_eps
    head_dim, groups = layers[0].self_attn.head_dim, config.num_key_value_heads
    grouped = config.num_attention_heads != groups
    places = torch.arange(length, device=keys[0].device)[None]
    cosines, sines = (table[0] for table in model.model.rotary_emb(keys[0][:1, 0, :1], position_ids=places))
    # rotate_half(x)·sin = roll(x)·sin with the sign of its first half turned.
    half = head_dim // 2
    sines = torch.cat([-sines[:, :half], sines[:, half:]], 1)
    scale = layers[0].self_attn.scaling

    def step(ids: torch.Tensor, place: int) -> torch.Tensor:
        states, count = embed(ids), ids.shape[1]
        end = place + count
        cosine, sine = cosines[place:end], sines[place:end]
        seen_by_each = None if count == 1 else cosines.new_ones((count, end), dtype=torch.bool).tril(place)
        for number, layer in enumerate(layers):
            attention, mlp = layer.self_attn, layer.mlp
            normed = F.rms_norm(states, (width,), layer.input_layernorm.weight, eps)
            query, key, value = (
                F.linear(normed, part.weight, part.bias).unflatten(-1, (-1, head_dim)).transpose(1, 2)
                for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            query = torch.addcmul(query * cosine, query.roll(half, -1), sine)
            keys[number][:, :, place:end] = torch.addcmul(key * cosine, key.roll(half, -1), sine)
            values[number][:, :, place:end] = value
            seen = F.scaled_dot_product_attention(
                query,
                keys[number][:, :, :end],
                values[number][:, :, :end],
                attn_mask=seen_by_each,
                scale=scale,
                enable_gqa=grouped,
            )
            seen = seen.transpose(1, 2).flatten(2)
            states = states + F.linear(seen, attention.o_proj.weight, attention.o_proj.bias)
            normed = F.rms_norm(states, (width,), layer.post_attention_layernorm.weight, eps)
            gated = mlp.act_fn(F.linear(normed, mlp.gate_proj.weight, mlp.gate_proj.bias))
            gated = gated * F.linear(normed, mlp.up_proj.weight, mlp.up_proj.bias)
            states = states + F.linear(gated, mlp.down_proj.weight, mlp.down_proj.bias)
        return F.linear(F.rms_norm(states, (width,), norm.weight, eps), head.weight, head.bias)

    return step
