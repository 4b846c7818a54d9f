"""Official ParameterNet checkpoints -> ours.

The official code lists the blocks in groups of any size, of which the checkpoint's names are the only record: here the
blocks are counted through and dealt out to the stages of the configuration.
"""

import re

from ..ghostnet.convert_ghostnet import RULES as GHOSTNET_RULES
from .configuration_parameternet import ParameterNetConfig

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: 1×1 convolutions on pooled features, which are linear layers here.
RESHAPED = re.compile(r"(squeeze_excite\.(reduce|expand)|^head)\.weight$")

#: Applied one after the other; names of modules as well as of their weights. What GhostNet's have in common, the
#: dynamic convolutions, and the last group, which holds no block.
RULES = (
    (r"^blocks\.\d+\.0\.conv\b", "final.conv"),
    (r"^blocks\.\d+\.0\.bn1\b", "final.norm"),
    *(rule for rule in GHOSTNET_RULES if "blocks" not in rule[0]),
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
