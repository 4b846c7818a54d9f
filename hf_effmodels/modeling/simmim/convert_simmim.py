"""Official SimMIM checkpoints -> ours, over transformers' own encoders."""

import re

import torch

from ..layers.stored_weights import take_joint
from .configuration_simmim import SimMimConfig

#: Index tables and masks, which the networks compute.
IGNORED = re.compile(r"\.(relative_position_index|attn_mask)$|(^|\.)total_(ops|params)$")

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^decoder\.0\b", "decoder"),
    (r"^encoder\.(mask_token|cls_token)$", r"embeddings.\1"),
    (r"^encoder\.pos_embed$", "embeddings.position_embeddings"),
    (r"^encoder\.patch_embed\.proj\b", "embeddings.patch_embeddings.projection"),
    (r"^encoder\.patch_embed\.norm\b", "embeddings.norm"),
    (r"^encoder\.rel_pos_bias\b", "shared_position_bias"),
    (r"^encoder\.layers\b", "encoder.layers"),  # Swin's stages
    (r"^encoder\.blocks\b", "layers"),  # BEiT's blocks
    (r"^encoder\.norm\b", "layernorm"),
    (r"\.attn\.relative_position_bias_table$", ".attn.relative_position_bias.relative_position_bias_table"),
    (r"\.attn\.proj\b", ".attention.o_proj"),
    (r"\.attn\b", ".attention"),
    (r"\.norm1\b", ".layernorm_before"),
    (r"\.norm2\b", ".layernorm_after"),
    (r"\.gamma_([12])$", r".lambda_\1"),
)


def adapt(weights: dict[str, torch.Tensor], config: SimMimConfig) -> SimMimConfig:
    """Split the joint projections of queries, keys and values; the ViT's have separate biases, none for keys."""
    for name in list(weights):
        if ".qkv." in name:
            take_joint(weights, name, [name.replace(".qkv.", f".{part}_proj.") for part in "qkv"])
        elif name.endswith((".q_bias", ".v_bias")):
            weights[re.sub(r"([qv])_bias$", r"\1_proj.bias", name)] = weights.pop(name)
    return config
