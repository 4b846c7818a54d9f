"""One token after the other by a LLaMA of transformers, without what its modules do around the arithmetic of a step.

A step of a small model is mostly calls: dozens for each layer, masks and outputs. Here a layer is some twenty. The
file stands alone: it is copied beside the weights when a pipeline is saved.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm

#: Weights that read one input are put together, in a copy, where they are no more than this: above it reading them is
#: what takes the time, and not the calls.
_SMALL = 2**20


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
    """What computes a step: (batch,) ids and their place -> (batch, tokens) logits of the next ones.

    Args:
        model: see `is_plain`.
        keys, values: of each layer, (batch, heads, length, channels); each step writes at its place and reads all
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
    heads = config.num_attention_heads
    turned_heads = heads + groups
    project = [_joined([getattr(layer.self_attn, f"{name}_proj") for name in "qkv"]) for layer in layers]
    widen = [_joined([layer.mlp.gate_proj, layer.mlp.up_proj]) for layer in layers]

    def step(ids: torch.Tensor, place: int) -> torch.Tensor:
        states, end = embed(ids), place + 1
        cosine, sine = cosines[place], sines[place]
        for number, layer in enumerate(layers):
            attention, mlp = layer.self_attn, layer.mlp
            normed = F.rms_norm(states, (width,), layer.input_layernorm.weight, eps)
            parts = project[number](normed).unflatten(1, (-1, 1, head_dim))
            turned = parts[:, :turned_heads]
            turned = torch.addcmul(turned * cosine, turned.roll(half, -1), sine)
            keys[number][:, :, place:end] = turned[:, heads:]
            values[number][:, :, place:end] = parts[:, turned_heads:]
            seen = F.scaled_dot_product_attention(
                turned[:, :heads],
                keys[number][:, :, :end],
                values[number][:, :, :end],
                scale=scale,
                enable_gqa=grouped,
            )
            states = states + F.linear(seen.flatten(1), attention.o_proj.weight, attention.o_proj.bias)
            normed = F.rms_norm(states, (width,), layer.post_attention_layernorm.weight, eps)
            gate, up = widen[number](normed).chunk(2, 1)
            states = states + F.linear(mlp.act_fn(gate) * up, mlp.down_proj.weight, mlp.down_proj.bias)
        return F.linear(F.rms_norm(states, (width,), norm.weight, eps), head.weight, head.bias)

    return step


def _joined(linears: Sequence[nn.Linear]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What linear layers make of one input, one after the other."""
    if sum(each.weight.numel() for each in linears) > _SMALL:
        return lambda given: torch.cat([F.linear(given, each.weight, each.bias) for each in linears], 1)
    weight = torch.cat([each.weight for each in linears])
    bias = None if linears[0].bias is None else torch.cat([each.bias for each in linears])
    return lambda given: F.linear(given, weight, bias)
