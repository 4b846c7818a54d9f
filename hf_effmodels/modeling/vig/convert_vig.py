"""Official ViG and Pyramid ViG checkpoints -> ours.

The official code keeps all blocks and downsamplings in one list and a table of relative positions in each block. Here
they are dealt out to the stages of the configuration, with one table for each, or for each block where they differ: as
they are in the file; where it has none, they are computed.
"""

import re

import torch

from .configuration_vig import VigConfig
from .position_encodings import relative_position_bias

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: 1×1 convolutions on pooled features, which are linear layers here.
RESHAPED = re.compile(r"^(head\.linear|classifier)\.weight$")

_STEM_LAYER = ("conv", "norm", "activation")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^pos_embed$", "stem.position_embedding"),
    # A convolution, a norm and an activation for each layer of the stem, except that the last has no activation.
    (r"^stem\.convs\.(\d+)\b", lambda m: f"stem.layers.{int(m[1]) // 3}.{_STEM_LAYER[int(m[1]) % 3]}"),
    (r"^prediction\.0\b", "head.linear"),
    (r"^prediction\.1\b", "head.norm"),
    (r"^prediction\.4\b", "classifier"),
    (r"^(backbone\.\d+)\.conv\b", r"\1.downsample"),
    (r"^(backbone\.\d+)\.0\b", r"\1.grapher"),
    (r"^(backbone\.\d+)\.1\b", r"\1.feed_forward"),
    (r"\.grapher\.fc1\b", ".grapher.project_in"),
    (r"\.grapher\.fc2\b", ".grapher.project_out"),
    (r"\.graph_conv\.gconv\b", ".convolution"),
    (r"\.convolution\.nn2\b", ".convolution.update.linear"),
    (r"\.convolution\.nn1\b", ".convolution.message.linear"),
    (r"\.convolution\.nn\b", ".convolution.update.linear"),
    (r"\.feed_forward\.fc1\b", ".feed_forward.expand"),
    (r"\.feed_forward\.fc2\b", ".feed_forward.reduce"),
    (r"\.(project_in|project_out|expand|reduce|downsample|linear)\.0\b", r".\1.conv"),
    (r"\.(project_in|project_out|expand|reduce|downsample|linear)\.1\b", r".\1.norm"),
)

_ENTRY = re.compile(r"^backbone\.(\d+)\b")


def entry_names(config: VigConfig) -> list[str]:
    """Our name of each entry of the official list: blocks, and the downsampling before a stage."""
    names = []
    for stage, (depth, stride) in enumerate(zip(config.depths, config.stage_strides, strict=True)):
        names += [f"stages.{stage}"] * (stride > 1)
        names += [f"stages.{stage}.blocks.{position}" for position in range(depth)]
    return names


def adapt(state_dict: dict, config: VigConfig) -> VigConfig:
    """Rename the entries and put the tables together, in place; the configuration says whether blocks share them."""
    names = entry_names(config)
    for name in list(state_dict):
        entry = _ENTRY.match(name)
        if entry and int(entry[1]) < len(names):
            state_dict[names[int(entry[1])] + name[entry.end() :]] = state_dict.pop(name)
    if config.relative_position:
        _put_tables_together(state_dict, config)
    return config


def _put_tables_together(state_dict: dict, config: VigConfig) -> None:
    """The tables as they are stored, one for each stage where all of its blocks have the same; computed where the file
    has none.

    Raises:
        ValueError: a table is for images of another size than `config.image_size`.
    """
    dtype = state_dict["stem.position_embedding"].dtype if "stem.position_embedding" in state_dict else torch.float32
    stages = []
    for stage, depth in enumerate(config.depths):
        grid, reduction = config.grid(stage + 1), config.reduction_ratios[stage]
        computed = relative_position_bias(config.hidden_sizes[stage + 1], *grid, reduction).to(dtype)
        tables = []
        for position in range(depth):
            name = f"stages.{stage}.blocks.{position}.grapher.relative_pos"
            table = state_dict.pop(name, computed[None])
            if table.shape != (1, *computed.shape):
                raise ValueError(
                    f"{name}: got a table of shape {tuple(table.shape)}, expected (1, nodes, keys) = "
                    f"{(1, *computed.shape)} for image_size={config.image_size}, a map of {grid[0]}×{grid[1]} nodes."
                )
            tables.append(table[0])
        stages.append(tables)
    shared = all(torch.equal(table, tables[0]) for tables in stages for table in tables)
    config.relative_position_per_block = not shared
    for stage, tables in enumerate(stages):
        state_dict[f"stages.{stage}.relative_position"] = tables[0] if shared else torch.stack(tables)
