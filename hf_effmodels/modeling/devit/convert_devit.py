"""Official DeViT checkpoints -> ours: ensembles (`model.backbones.N.*` or `backbones.N.*` with `ens_model.*` or its
weights alone), and the file of one sub-model with its heads."""

import re

from .configuration_devit import DeViTConfig

IGNORED = re.compile(r"(^|\.)total_(ops|params)$")
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^(?:model\.)?(?:backbones|models)\.(\d+)\b", r"parts.\1"),
    (r"^(?:ens_model\.)?cls_mlp\b", "fusion.hidden.cls"),
    (r"^(?:ens_model\.)?dist_mlp\b", "fusion.hidden.distillation"),
    (r"^(?:ens_model\.)?cls_classifier\b", "fusion.classifiers.cls"),
    (r"^(?:ens_model\.)?dist_classifier\b", "fusion.classifiers.distillation"),
    # The file of a sub-model.
    (r"^(?:head|encoders\.fc)\b", "fusion.classifiers.cls"),
    (r"^head_dist\b", "fusion.classifiers.distillation"),
    (r"^(?!parts\b|fusion\b)", "parts.0."),
    # Within a part.
    (r"\.cls_token$", ".embeddings.cls_token"),
    (r"\.dist_token$", ".embeddings.distillation_token"),
    (r"\.(?:pos_embed|encoders\.positional_emb)$", ".embeddings.position_embeddings"),
    (r"\.patch_embed\.proj\b", ".embeddings.projection"),
    (r"\.tokenizer\.conv_layers\.(\d+)\.0\b", r".embeddings.convolutions.\1"),
    (r"\.encoders\.attention_pool\b", ".pooling"),
    (r"\.encoders\.", "."),
    (r"\.blocks\.(\d+)\.pre_norm\b", r".layers.\1.norm_before"),
    (r"\.blocks\.(\d+)\.self_attn\b", r".layers.\1.attention"),
    (r"\.blocks\.(\d+)\.attn\b", r".layers.\1.attention"),
    (r"\.blocks\.(\d+)\.linear1\b", r".layers.\1.mlp.fc1"),
    (r"\.blocks\.(\d+)\.linear2\b", r".layers.\1.mlp.fc2"),
    (r"\.blocks\.(\d+)\.norm2\b", r".layers.\1.norm_after"),
    (r"\.blocks\.(\d+)\b", r".layers.\1"),
)


def adapt(state_dict: dict, config: DeViTConfig) -> DeViTConfig:
    """`norm1` stands before the attention of a ViT, before the MLP of a CCT; the configuration stays."""
    ours = "norm_after" if config.part_type == "cct" else "norm_before"
    for name in list(state_dict):
        if re.search(r"\.layers\.\d+\.norm1\.", name):
            state_dict[name.replace(".norm1.", f".{ours}.")] = state_dict.pop(name)
    return config
