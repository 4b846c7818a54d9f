"""Official ADEM-VL adapters (`checkpoint_7B_sqa.pth`, ...) -> ours.

The files hold the trained tensors only, beside the arguments of the training run, from which the settings are read.
The frozen parts come from transformers: a LLaMA converted with transformers' own `convert_llama_weights_to_hf.py`
(which also turns Meta's interleaved rotary layout into that of transformers) and `openai/clip-vit-large-patch14`.
"""

import json
import re
from collections.abc import Mapping

import torch

from .configuration_adem_vl import AdemVLConfig

#: Official names -> ours, one after the other.
RULES = (
    (r"^adapter_emb1$", "key_offsets"),
    (r"^adapter_emb2$", "value_offsets"),
    (r"^adapter_proj\.", "image_projection."),
    (r"^adapter_proj_cls\.", "class_projection."),
    (r"^backbone\.visual\.transformer\.resblocks\.(\d+)\.adapter_mlp\.", r"vision_adapters.\1."),
)
#: Every entry is a weight, and has its official shape.
IGNORED = re.compile(r"(?!)")
RESHAPED = re.compile(r"(?!)")

#: Fields of the configuration that the processor has, too.
PROCESSOR_FIELDS = ("use_cls_token",)


def adapt(state_dict: Mapping[str, torch.Tensor], config: AdemVLConfig) -> AdemVLConfig:
    """The configuration as the adapters' shapes have it.

    Raises:
        ValueError: no adapters, or their shapes contradict the frozen parts in `config`.
    """
    needed = ("key_offsets", "image_projection.fc1.weight", "vision_adapters.0.fc1.weight")
    if absent := [name for name in needed if name not in state_dict]:
        raise ValueError(f"no ADEM-VL adapters: {', '.join(absent)} missing; found {sorted(state_dict)[:5]}.")
    offsets, fc1, adapter = (state_dict[name] for name in needed)
    if [offsets.dim(), fc1.dim(), adapter.dim()] != [3, 2, 2]:
        raise ValueError(f"no ADEM-VL adapters: {', '.join(needed)} have other shapes than 3, 2 and 2 dimensions.")
    checks = {
        "the decoder's hidden size": (offsets.shape[2], config.text_config.hidden_size),
        "the number of visual tokens": (offsets.shape[1], config.num_vision_tokens),
        "the vision tower's width": (fc1.shape[1], config.vision_config.hidden_size),
    }
    for what, (theirs, ours) in checks.items():
        if theirs != ours:
            raise ValueError(f"checkpoint: made for {theirs} as {what}, the models and settings given have {ours}.")
    config.projector_hidden_size = fc1.shape[0]
    config.vision_adapter_dim = adapter.shape[0]
    config.use_cls_token = "class_projection.fc1.weight" in state_dict
    return config


def settings_of(arguments: Mapping) -> dict:
    """Fields of the configuration as the arguments of the official training script have them.

    Raises:
        ValueError: an argument has an unexpected form.
    """
    settings = {}
    try:
        for name in ("alpha", "beta", "drop_ratio"):
            if name in arguments:
                settings[name] = float(arguments[name])
        counts = arguments.get("down_sample_num")
        if counts is not None:
            name = "down_sample_num"
            counts = json.loads(counts) if isinstance(counts, str) else list(counts)
            settings["pool_sizes"] = [round(count**0.5) for count in counts]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}: got {arguments[name]!r} in the checkpoint's arguments, expected numbers.") from None
    if counts is not None and [size * size for size in settings["pool_sizes"]] != counts:
        raise ValueError(f"down_sample_num: got {counts} in the checkpoint's arguments, expected squares.")
    if "no_cls" in arguments:
        settings["use_cls_token"] = not arguments["no_cls"]
    return settings
