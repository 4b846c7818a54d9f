"""Load any `pack-quantized` checkpoint of compressed-tensors into packed layers: small, and fast on a CPU."""

from .configuration_cbq import CbqConfig


def load_packed(name_or_path: str, **kwargs):
    """A causal language model with its quantised weights packed in memory.

    On a CPU weights of up to 4 bits are multiplied as they are; stock transformers unpacks them all at the first call.

    Args:
        name_or_path: a Hub id or a folder in the format `pack-quantized` of compressed-tensors, which llm-compressor
            and this package write, or in this package's own.
        kwargs: for `from_pretrained`; `dtype` is that of the activations, by default bfloat16.

    Raises:
        ValueError: a checkpoint of another format, or one that mixes several grids; the message says which.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = {
        key: kwargs[key]
        for key in ("revision", "token", "trust_remote_code", "subfolder", "cache_dir")
        if key in kwargs
    }
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(name_or_path, **where)
    config.quantization_config = packed_config(config, name_or_path).to_dict()
    return AutoModelForCausalLM.from_pretrained(name_or_path, **{"dtype": torch.bfloat16, **kwargs, "config": config})


def packed_config(config, name: str = "the model") -> CbqConfig:
    """What `quantization_config` of a checkpoint says, in our words.

    Raises:
        ValueError: it says something that packed layers cannot be.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        stored = getattr(config.get_text_config(), "quantization_config", None)
    if stored is None:
        raise ValueError(f"{name} is not quantised: its configuration has no quantization_config.")
    stored = dict(stored if isinstance(stored, dict) else stored.to_dict())
    method = getattr(stored.get("quant_method"), "value", stored.get("quant_method"))
    if method == "cbq":
        return CbqConfig.from_dict(stored)
    if method != "compressed-tensors" or stored.get("format") != "pack-quantized":
        raise ValueError(
            f"{name} is of the format {method} {stored.get('format') or ''}; accepted are compressed-tensors "
            "pack-quantized and cbq."
        )
    groups = list((stored.get("config_groups") or {}).values())
    if len(groups) != 1 or groups[0].get("targets") != ["Linear"]:
        raise ValueError(f"{name} has {len(groups)} groups of layers; accepted is one, for all linear layers.")
    weights, activations = groups[0]["weights"], groups[0].get("input_activations")
    if weights.get("type", "int") != "int" or weights["num_bits"] not in (2, 4, 8):
        raise ValueError(
            f"{name} has weights of {weights['num_bits']} bits ({weights.get('type')}); accepted are 2, 4, 8."
        )
    if weights.get("strategy") not in ("group", "channel") or weights.get("actorder") not in (
        None,
        "static",
        "weight",
    ):
        raise ValueError(
            f"{name} has steps by {weights.get('strategy')}, order {weights.get('actorder')}; accepted are by group "
            "or channel, in the order of the inputs."
        )
    if activations is not None and (
        activations.get("strategy") != "token"
        or not activations.get("dynamic")
        or not activations.get("symmetric", True)
    ):
        raise ValueError(f"{name} quantises activations another way than by token, dynamic and symmetric.")
    return CbqConfig(
        bits=weights["num_bits"],
        group_size=weights.get("group_size") if weights["strategy"] == "group" else None,
        symmetric=weights.get("symmetric", True),
        activation_bits=None if activations is None else activations["num_bits"],
        modules_to_not_convert=list(stored.get("ignore") or []),
    )
