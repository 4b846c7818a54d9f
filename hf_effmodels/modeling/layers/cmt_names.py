"""Official names of CMT's weights -> ours: of the classifier, and of the encoder that FastMIM trains (`encoder.`)."""

import re


def _stage(match: re.Match) -> str:
    return f"stages.{'abcd'.index(match[1])}"


_BLOCK = r"^(stages\.\d+\.blocks\.\d+)"

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^(?:encoder\.)?stem_conv(\d)\b", r"stem.conv\1.conv"),
    (r"^(?:encoder\.)?stem_norm(\d)$", r"stem.conv\1.norm"),
    (r"^(?:encoder\.)?stem_norm(\d)\b", r"stem.conv\1.norm.norm"),
    (r"^(?:encoder\.)?relative_pos_([a-d])$", lambda m: f"{_stage(m)}.relative_positions"),
    (r"^(?:encoder\.)?patch_embed_([a-d])\b", lambda m: f"{_stage(m)}.patch_embed"),
    (r"^(?:encoder\.)?blocks_([a-d])\b", lambda m: f"{_stage(m)}.blocks"),
    (rf"{_BLOCK}\.attn\.sr\.0\b", r"\1.attention.reduction.conv"),
    (rf"{_BLOCK}\.attn\.sr\.1\b", r"\1.attention.reduction.norm"),
    (rf"{_BLOCK}\.attn\b", r"\1.attention"),
    (rf"{_BLOCK}\.mlp\.conv1\.0\b", r"\1.mlp.expand.conv"),
    (rf"{_BLOCK}\.mlp\.conv1\.2\b", r"\1.mlp.expand.norm.norm"),
    (rf"{_BLOCK}\.mlp\.proj_bn\b", r"\1.mlp.norm.norm"),
    (rf"{_BLOCK}\.mlp\.proj\b", r"\1.mlp.local"),
    (rf"{_BLOCK}\.mlp\.conv2\.0\b", r"\1.mlp.project.conv"),
    (rf"{_BLOCK}\.mlp\.conv2\.1\b", r"\1.mlp.project.norm"),
    (rf"{_BLOCK}\.proj\b", r"\1.local"),
)
