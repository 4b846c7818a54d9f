"""Official LocalMIM checkpoints -> ours, over transformers' own encoders."""

import re

import torch

from ..layers.stored_weights import take_joint
from .configuration_localmim import LocalMimConfig

#: Index tables, and the filters of the target, which are constants.
IGNORED = re.compile(r"\.relative_position_index$|^hog_enc\.\d\.conv\.weight$|(^|\.)total_(ops|params)$")

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^(?:encoder\.)?norm\.(\d)\b", r"norms.\1"),
    (r"^decoder\.(\d)\.pos_embed$", r"decoders.\1.position_embeddings"),
    (r"^decoder\.(\d)\.blocks\b", r"decoders.\1.layers"),
    (r"^decoder\.(\d)\.pred\b", r"decoders.\1.head"),
    (r"^decoder\.(\d)\b", r"decoders.\1"),
    # Swin
    (r"^encoder\.patch_embed\.proj\b", "embeddings.patch_embeddings.projection"),
    (r"^encoder\.patch_embed\.norm\b", "embeddings.norm"),
    (r"^encoder\.patch_embed$", "embeddings.norm"),
    (r"\.attn\.relative_position_bias_table$", ".attn.relative_position_bias.relative_position_bias_table"),
    # ViT
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\b", "embeddings.patch_embeddings.projection"),
    (r"^patch_embed$", "embeddings.patch_embeddings"),
    (r"^blocks\b", "layers"),
    (r"\.attn\.proj\b", ".attention.o_proj"),
    (r"\.attn\b", ".attention"),
    (r"\.norm1\b", ".layernorm_before"),
    (r"\.norm2\b", ".layernorm_after"),
)


def adapt(weights: dict[str, torch.Tensor], config: LocalMimConfig) -> LocalMimConfig:
    """Split the joint projections of queries, keys and values; put the shifts of the four targets into one; order what
    a Swin merges as Swin does: the release takes the four tokens row by row, Swin column by column."""
    for name in list(weights):
        if ".downsample." in name:
            merged = weights.pop(name)
            if merged.shape[-1] % 4:
                raise ValueError(f"1 of another shape: {name} is {tuple(merged.shape)}, expected columns of 4 tokens.")
            upper_left, upper_right, lower_left, lower_right = merged.chunk(4, dim=-1)
            weights[name] = torch.cat([upper_left, lower_left, upper_right, lower_right], dim=-1)
        if ".qkv." in name:
            take_joint(weights, name, [name.replace(".qkv.", f".{part}_proj.") for part in "qkv"])
    biases = [weights.pop(name) for scale in range(4) if (name := f"hog_enc.{scale}.conv.bias") in weights]
    if biases:
        weights["hog_bias"] = torch.stack(biases)
    return config
