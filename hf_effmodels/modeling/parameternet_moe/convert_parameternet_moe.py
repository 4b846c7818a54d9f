"""The official layout (`parameternet_pytorch/nlp`) -> ours, and dense LLaMA -> mixture.

The official code keeps every expert by itself; here a layer's experts are one tensor.
"""

import re

import torch

from ..decoders.llama_layout import (
    build_like,
    check_overrides,
    check_same_head,
    common_fields,
    llama_weights,
    read_llama,
)
from .configuration_parameternet_moe import ParameterNetMoeConfig

#: Rotary tables of old transformers.
IGNORED = re.compile(r"rotary_emb\.inv_freq$")
RESHAPED = re.compile(r"(?!)")
RULES = (
    (r"^model\.", ""),  # names are those of the decoder, the head's apart
    (r"\.mlp\.down_proj\.router\.classifier\b", ".mlp.router"),
    (r"\.mlp\.down_proj\.experts\.expert_(\d+)\b", r".mlp.experts.\1"),
)
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(weight|bias)$")


def adapt(state_dict: dict[str, torch.Tensor], config: ParameterNetMoeConfig) -> ParameterNetMoeConfig:
    """Stack the experts of each layer, in place; a layer whose experts are not 0 … E - 1 is left for the check."""
    groups: dict[str, dict[int, str]] = {}
    for name in state_dict:
        if found := _EXPERT.match(name):
            groups.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = name
    for stacked, members in groups.items():
        alike = len({(state_dict[name].shape, state_dict[name].dtype) for name in members.values()}) == 1
        if alike and sorted(members) == list(range(config.num_local_experts)):
            state_dict[stacked] = torch.stack([state_dict.pop(members[i]) for i in sorted(members)])
    return config


_NEW_FIELDS = {
    name for name in ParameterNetMoeConfig.__annotations__ if name in ParameterNetMoeConfig.__dataclass_fields__
}


def llama_to_parameternet_moe(cls, model, **overrides):
    """See `ParameterNetMoePreTrainedModel.from_llama`."""
    model = read_llama(model, cls)
    check_overrides(overrides, _NEW_FIELDS)
    config = ParameterNetMoeConfig(**{**common_fields(model.config), **overrides})
    experts = config.num_local_experts
    if config.mlp_bias and not config.expert_bias:
        raise ValueError("expert_bias: got False, accepted is True: the model's down projections have biases.")

    weights = {}
    for name, value in llama_weights(model).items():
        if found := re.match(r"(.*\.mlp)\.down_proj\.(weight|bias)$", name):
            copies = (experts * value).expand(experts, *value.shape)
            weights[f"{found[1]}.experts.{found[2]}"] = copies
            weights[f"{found[1]}.router.weight"] = value.new_zeros(experts, config.intermediate_size)
        else:
            weights[name] = value
    with torch.device("meta"):
        expected = set(cls(config).state_dict())
    if not config.mlp_bias:  # the experts' biases are new, and start as zero
        expected = {name for name in expected if not name.endswith(".experts.bias")}
    check_same_head(model, cls, expected, weights.keys())
    return build_like(model, cls, config, weights)
