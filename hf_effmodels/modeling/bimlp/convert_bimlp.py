"""Official BiMLP checkpoints (MindSpore's names) -> ours."""

import re

from .configuration_bimlp import BiMlpConfig

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: Biases and slopes per channel are (1, channels, 1, 1) there.
RESHAPED = re.compile(r"\.(bias|slope)$")

_NORM = r"(norm\w*|\w+_bn)"

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"\.moving_mean$", ".running_mean"),
    (r"\.moving_variance$", ".running_var"),
    (r"\.act\.w$", ".slope"),
    (r"^patch_embed\.proj\b", "stem.projection"),
    (r"^patch_embed\b", "stem"),
    (r"^network\.(\d*[02468])\.(\d+)\b", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}"),
    (r"^network\.(\d*[02468])$", lambda m: f"stages.{int(m[1]) // 2}"),
    (r"^network\.(\d*[13579])\b", lambda m: f"stages.{(int(m[1]) + 1) // 2}.downsample"),
    (r"\.downsample\.proj\b", ".downsample.projection"),
    (r"^head\b", "classifier"),
)


def adapt(state_dict: dict, config: BiMlpConfig) -> BiMlpConfig:
    """The configuration of the checkpoint's layout; its norms get the place they have here."""
    for name in list(state_dict):
        if re.search(r"\.(running_mean|running_var)$", name) or _is_norm(name):
            module, _, attribute = name.rpartition(".")
            state_dict[f"{module}.norm.{attribute}"] = state_dict.pop(name)
    return config


def _is_norm(name: str) -> bool:
    module = name.rpartition(".")[0].rpartition(".")[2]
    return re.fullmatch(_NORM, module) is not None and name.rpartition(".")[2] in ("weight", "bias")
