"""Official FastMIM checkpoints -> ours, over transformers' own encoders."""

import re

from ..layers.cmt_names import RULES as _CMT_NAMES
from ..layers.stored_weights import take_joint
from .configuration_fastmim import FastMimConfig

#: Index tables, masks and counters, which the networks compute.
IGNORED = re.compile(r"\.(relative_position_index|attn_mask)$|(^|\.)total_(ops|params)$")

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^decoder_embed\b", "decoder.embed"),
    (r"^decoder_blocks\b", "decoder.layers"),
    (r"^decoder_norm\b", "decoder.norm"),
    (r"^decoder_pred\b", "decoder.prediction"),
    *_CMT_NAMES,
    # Swin
    (r"^encoder\.patch_embed\.proj\b", "embeddings.patch_embeddings.projection"),
    (r"^encoder\.patch_embed\.norm\b", "embeddings.norm"),
    (r"^encoder\.patch_embed$", "embeddings"),
    (r"^encoder\.layers\b", "encoder.layers"),
    (r"^encoder\.norm\b", "layernorm"),
    (r"\.attn\.relative_position_bias_table$", ".attn.relative_position_bias.relative_position_bias_table"),
    # PVTv2
    (
        r"^encoder\.patch_embed(\d)\.norm\b",
        lambda m: f"encoder.layers.{int(m[1]) - 1}.patch_embedding.layer_norm",
    ),
    (r"^encoder\.patch_embed(\d)\b", lambda m: f"encoder.layers.{int(m[1]) - 1}.patch_embedding"),
    (r"^encoder\.norm(\d)\b", lambda m: f"encoder.layers.{int(m[1]) - 1}.layer_norm"),
    (r"^encoder\.block(\d)\.(\d+)\.norm(\d)\b", lambda m: f"{_pvt(m)}.layer_norm_{m[3]}"),
    (r"^encoder\.block(\d)\.(\d+)\.attn\.q\b", lambda m: f"{_pvt(m)}.attention.query"),
    (r"^encoder\.block(\d)\.(\d+)\.attn\.norm\b", lambda m: f"{_pvt(m)}.attention.layer_norm"),
    (r"^encoder\.block(\d)\.(\d+)\.attn\.sr\b", lambda m: f"{_pvt(m)}.attention.spatial_reduction"),
    (r"^encoder\.block(\d)\.(\d+)\.attn\b", lambda m: f"{_pvt(m)}.attention"),
    (r"^encoder\.block(\d)\.(\d+)\.mlp\.fc(\d)\b", lambda m: f"{_pvt(m)}.mlp.dense{m[3]}"),
    (r"^encoder\.block(\d)\.(\d+)\b", lambda m: _pvt(m)),
    # ViT
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\b", "embeddings.patch_embeddings.projection"),
    (r"^patch_embed$", "embeddings.patch_embeddings"),
    (r"^blocks\b", "layers"),
    (r"^norm\b", "layernorm"),
    # Blocks of ViT, Swin and the decoder
    (r"\.attn\.proj\b", ".attention.o_proj"),
    (r"\.attn\b", ".attention"),
    (r"^((?!stages\.).*)\.norm1\b", r"\1.layernorm_before"),
    (r"^((?!stages\.).*)\.norm2\b", r"\1.layernorm_after"),
)


def _stage(match: re.Match) -> str:
    return f"encoder.layers.{int(match[1]) - 1}"


def _pvt(match: re.Match) -> str:
    return f"{_stage(match)}.blocks.{match[2]}"


def adapt(weights: dict, config: FastMimConfig) -> FastMimConfig:
    """Split the projections that official files keep in one: queries, keys and values; keys and values of PVTv2."""
    if config.backbone_config.model_type == "cmt":  # its last norm is called so, too
        for kind in ("weight", "bias"):
            if f"layernorm.{kind}" in weights:
                weights[f"norm.{kind}"] = weights.pop(f"layernorm.{kind}")
    for name in list(weights):
        for joint, parts in ((".qkv.", ("q_proj", "k_proj", "v_proj")), (".kv.", ("key", "value"))):
            if joint in name:
                take_joint(weights, name, [name.replace(joint, f".{part}.") for part in parts])
    return config
