"""LLaMA's names and weights: from transformers' LLaMA to a decoder that has them and some more, and back."""

import copy

import torch
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

_NOT_COMMON = {"model_type", "architectures", "auto_map", "transformers_version", "sliding_window", "pretraining_tp"}


def read_llama(model, cls):
    """The source of a conversion to `cls`: a LLaMA as it is, or loaded from a name or a path with the head of `cls`.

    Raises:
        ValueError: another architecture, or a Mistral with a sliding window.
    """
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        _check_source(AutoConfig.from_pretrained(model))  # before the weights are read
        head = next(head for head in _AUTO_CLASSES if cls.__name__.endswith(head))
        model = getattr(modeling_auto, _AUTO_CLASSES[head]).from_pretrained(model, dtype="auto")
    if not hasattr(model, "config"):
        raise ValueError(f"model: got {type(model).__name__}, accepted are a LLaMA model of transformers or its path.")
    _check_source(model.config)
    return model


_HEADS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_AUTO_CLASSES = {head: f"AutoModel{head}" for head in _HEADS} | {"Model": "AutoModel"}


def _check_source(config) -> None:
    """By the architecture's name, for others use LLaMA's weight names with other formulas: Gemma's norms, for one."""
    if config.model_type not in ("llama", "mistral"):
        raise ValueError(f"model: got the architecture {config.model_type!r}, accepted are 'llama' and 'mistral'.")
    if getattr(config, "sliding_window", None) is not None:
        raise ValueError(
            f"model: got sliding_window={config.sliding_window}, accepted is None: the result looks at all tokens."
        )


def common_fields(config) -> dict:
    """Fields of a configuration that LLaMA and a decoder of ours both have."""
    return {key: value for key, value in config.to_dict().items() if key not in _NOT_COMMON}


def check_overrides(overrides: dict, accepted: set[str]) -> None:
    if wrong := overrides.keys() - accepted:
        raise ValueError(
            f"{sorted(wrong)[0]}: would change what the model computes, accepted are {', '.join(sorted(accepted))}."
        )


def llama_weights(model) -> dict[str, torch.Tensor]:
    """Weights of a LLaMA by the names that ours have, too; its question answering calls the decoder otherwise."""
    return {name.replace("transformer.", "model.", 1): value for name, value in model.state_dict().items()}


def check_same_head(model, cls, expected: set[str], found: set[str]) -> None:
    if differing := sorted(expected ^ found):
        raise ValueError(
            f"model: {type(model).__name__} does not fit {cls.__name__}, only one of them has "
            f"{', '.join(differing[:5])}."
        )


def build_like(source, cls, config, weights: dict[str, torch.Tensor]):
    """A `cls` of `config` with copies of `weights` (the rest as initialised), in dtype, mode and place of `source`."""
    config._attn_implementation = source.config._attn_implementation
    model = cls._from_config(config, dtype=source.dtype)
    model.load_state_dict(weights, strict=False)
    if source.can_generate() and model.can_generate():
        model.generation_config = copy.deepcopy(source.generation_config)
    return model.train(source.training).to(source.device)
