"""Checkpoints of PanGu-π's layout -> ours, and LLaMA <-> PanGu-π.

No official weights are published. The layout is LLaMA's with two more groups of names.
"""

import re

import torch
from transformers.activations import ACT2FN
from transformers.models.llama import modeling_llama
from transformers.models.llama.configuration_llama import LlamaConfig

from ..decoders.llama_layout import (
    build_like,
    check_overrides,
    check_same_head,
    common_fields,
    llama_weights,
    read_llama,
)
from .configuration_pangu_pi import PanguPiConfig

#: Rotary tables that old LLaMA checkpoints carry.
IGNORED = re.compile(r"rotary_emb\.inv_freq$")
RESHAPED = re.compile(r"(?!)")
RULES = ((r"^model\.", ""),)  # names are those of the decoder, the head's apart


def adapt(state_dict: dict[str, torch.Tensor], config: PanguPiConfig) -> PanguPiConfig:
    return config


_NEW_FIELDS = {name for name in PanguPiConfig.__annotations__ if name in PanguPiConfig.__dataclass_fields__}


def llama_to_pangu_pi(cls, model, **overrides):
    """See `PanguPiPreTrainedModel.from_llama`."""
    model = read_llama(model, cls)
    check_overrides(overrides, _NEW_FIELDS)
    config = PanguPiConfig(**{**common_fields(model.config), **overrides})
    series = config.series_activations
    if series and not _starts_as(config.hidden_act, series):
        raise ValueError(
            f"series_activations: got {series}, accepted are series that start with the model's own "
            f"{config.hidden_act!r} and go on with functions that are 0 at 0: others would change the outputs."
        )
    with torch.device("meta"):
        expected = {name for name in cls(config).state_dict() if not re.search(r"\.act_fn\.|\.augmented_", name)}
    weights = llama_weights(model)
    check_same_head(model, cls, expected, weights.keys())
    return build_like(model, cls, config, weights)  # the two modules start without effect


def pangu_pi_to_llama(model):
    """See `PanguPiPreTrainedModel.to_llama`."""
    weights, series = dict(model.state_dict()), model.config.series_activations
    for name in [name for name in weights if ".augmented_shortcuts." in name]:
        if name.endswith("up_proj.weight") and weights[name].any():
            raise ValueError(f"model: {name} is in use (not zero), LLaMA has no augmented shortcut.")
        weights.pop(name)
    for name in [name for name in weights if ".act_fn." in name]:
        value = weights.pop(name)
        first, others = (value[0] - 1, value[1:]) if name.endswith(".scale") else (value[0], value[1:])
        if first.any() or others.any() or not _starts_as(model.config.hidden_act, series):
            place = name.rpartition(".")[0]
            raise ValueError(f"model: {place} is in use (scale is not (1, 0, …) or bias not 0), LLaMA has none.")

    cls = getattr(modeling_llama, type(model).__name__.replace("PanguPi", "Llama"))
    fields = {key: value for key, value in common_fields(model.config).items() if key not in _NEW_FIELDS}
    if cls.base_model_prefix != model.base_model_prefix:  # LLaMA's question answering calls its decoder otherwise
        weights = {re.sub(r"^model\.", f"{cls.base_model_prefix}.", name): value for name, value in weights.items()}
    return build_like(model, cls, LlamaConfig(**fields), weights)


def _starts_as(activation: str, series: list[str]) -> bool:
    """Whether a series at its initial values is `activation`: it begins with it, and the others are 0 at 0."""
    return series[0] == activation and all(ACT2FN[name](torch.zeros(1)).item() == 0 for name in series[1:])
