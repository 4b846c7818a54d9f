"""Official DToP checkpoints (of mmsegmentation) -> ours."""

import re

import torch

from ..layers.stored_weights import take_joint
from .configuration_dtop import DtopConfig

#: The weights of the two classes in the loss, which the configuration has.
IGNORED = re.compile(r"\.criterion\.empty_weight$")

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights. The last head is `decode_head`, whose
#: number `adapt` knows.
RULES = (
    (r"^backbone\.patch_embed\.projection\b", "embeddings.patch_embeddings.projection"),
    (r"^backbone\.cls_token$", "embeddings.cls_token"),
    (r"^backbone\.pos_embed$", "embeddings.position_embeddings"),
    (r"^backbone\.layers\.(\d+)", r"layers.\1"),
    (r"^(layers\.\d+)\.ln1\b", r"\1.layernorm_before"),
    (r"^(layers\.\d+)\.ln2\b", r"\1.layernorm_after"),
    (r"^(layers\.\d+)\.attn\.attn\.out_proj\b", r"\1.attention.o_proj"),
    (r"^(layers\.\d+)\.attn\.attn\b", r"\1.attention"),
    (r"^(layers\.\d+)\.ffn\.layers\.0\.0\b", r"\1.mlp.fc1"),
    (r"^(layers\.\d+)\.ffn\.layers\.1\b", r"\1.mlp.fc2"),
    (r"^auxiliary_head\.(\d+)\b", r"heads.\1"),
    (r"^decode_head\b", "heads.last"),
    (r"^(heads\.\w+)\.q\b", r"\1.queries"),
    (r"^(heads\.\w+)\.input_proj\b", r"\1.input_projection"),
    (r"^(heads\.\w+)\.proj_norm\b", r"\1.input_norm"),
    (r"^(heads\.\w+)\.class_embed\b", r"\1.classifier"),
    (r"^(heads\.\w+)\.decoder\.layers\.(\d+)", r"\1.layers.\2"),
    (r"^(heads\.\w+\.layers\.\d+)\.self_attn\.out_proj\b", r"\1.self_attention.o_proj"),
    (r"^(heads\.\w+\.layers\.\d+)\.self_attn\b", r"\1.self_attention"),
    (r"^(heads\.\w+\.layers\.\d+)\.multihead_attn\.proj\b", r"\1.cross_attention.o_proj"),
    (r"^(heads\.\w+\.layers\.\d+)\.multihead_attn\.([qkv])\b", r"\1.cross_attention.\2_proj"),
    (r"^(heads\.\w+\.layers\.\d+)\.linear([12])\b", r"\1.fc\2"),
)


def adapt(weights: dict[str, torch.Tensor], config: DtopConfig) -> DtopConfig:
    """Split the joint projections of queries, keys and values, and number the last head."""
    last = f"heads.{len(config.out_indices) - 1}."
    for name in list(weights):
        ours = re.sub(r"^heads\.last\.", last, name)
        if joint := re.fullmatch(r"(.*)\.in_proj_(weight|bias)", ours):
            take_joint(weights, name, [f"{joint[1]}.{part}_proj.{joint[2]}" for part in "qkv"])
        else:
            weights[ours] = weights.pop(name)
    return config
