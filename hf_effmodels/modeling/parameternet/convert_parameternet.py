"""Official ParameterNet checkpoints -> ours.

The official code lists the blocks in groups of any size, of which the checkpoint's names are the only record: here the
blocks are counted through and dealt out to the stages of the configuration.
"""

import re

from .configuration_parameternet import ParameterNetConfig

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: 1×1 convolutions on pooled features, which are linear layers here.
RESHAPED = re.compile(r"(squeeze_excite\.(reduce|expand)|^head)\.weight$")

_SHORTCUT = ("depthwise.conv", "depthwise.norm", "pointwise.conv", "pointwise.norm")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    # The last group, which holds no block.
    (r"^blocks\.\d+\.0\.conv\b", "final.conv"),
    (r"^blocks\.\d+\.0\.bn1\b", "final.norm"),
    (r"^conv_stem\b", "stem.convolution.conv"),
    (r"^bn1\b", "stem.convolution.norm"),
    (r"^act1$", "stem"),
    (r"\.ghost1\b", ".expand"),
    (r"\.ghost2\b", ".project"),
    (r"\.conv_dw\b", ".depthwise.conv"),
    (r"\.bn_dw\b", ".depthwise.norm"),
    (r"\.primary_conv\b", ".primary"),
    (r"\.cheap_operation\b", ".cheap"),
    (r"\.(primary|cheap)\.0\b", r".\1.conv"),
    (r"\.(primary|cheap)\.1\b", r".\1.norm"),
    (r"\.se\b", ".squeeze_excite"),
    (r"\.conv_(reduce|expand)\b", r".\1"),
    (r"\.shortcut\.(\d)\b", lambda m: f".shortcut.{_SHORTCUT[int(m[1])]}"),
    (r"^conv_head\b", "head"),
    # The dynamic convolutions.
    (r"\.conv\.routing\b", ".conv.router.linear"),
    (r"\.conv\.cond_conv\b", ".conv"),
)

_BLOCK = re.compile(r"^blocks\.(\d+)\.(\d+)\.")


def block_names(names, config: ParameterNetConfig) -> dict[tuple[int, int], str]:
    """Our name of each official block (group, position), of the names that an official checkpoint has."""
    official = sorted({(int(m[1]), int(m[2])) for m in map(_BLOCK.match, names) if m})
    ours = [
        f"stages.{stage}.blocks.{position}"
        for stage, rows in enumerate(config.stages)
        for position in range(len(rows))
    ]
    # Of different lengths where the checkpoint is another network's: then the names left over are reported.
    return dict(zip(official, ours, strict=False))


def adapt(state_dict: dict, config: ParameterNetConfig) -> ParameterNetConfig:
    """Rename the blocks in place, by their order; the configuration stays, as there is one layout only."""
    names = block_names(state_dict, config)
    for name in list(state_dict):
        block = _BLOCK.match(name)
        if block and (int(block[1]), int(block[2])) in names:
            ours = names[int(block[1]), int(block[2])]
            state_dict[f"{ours}.{name[block.end() :]}"] = state_dict.pop(name)
    return config
