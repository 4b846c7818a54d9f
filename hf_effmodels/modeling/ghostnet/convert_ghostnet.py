"""Official GhostNet, GhostNetV2 and GhostNetV3 checkpoints (and timm's of the same models) -> ours.

V3 comes in two layouts: as trained, and fused by the official code, which leaves the batch norms of the stem, the
attention, the shortcuts and the last convolution in place; those are folded here.
"""

import re

from .configuration_ghostnet import GhostNetConfig

#: Profiling counters that the official training script left among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: 1×1 convolutions on pooled features, which are linear layers here.
RESHAPED = re.compile(r"(squeeze_excite\.(reduce|expand)|\bhead)\.weight$")

_ATTENTION = (
    "pointwise.conv",
    "pointwise.norm",
    "horizontal.conv",
    "horizontal.norm",
    "vertical.conv",
    "vertical.norm",
)
_SHORTCUT = ("depthwise.conv", "depthwise.norm", "pointwise.conv", "pointwise.norm")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^conv_stem\b", "stem.convolution.conv"),
    (r"^bn1\b", "stem.convolution.norm"),
    (r"^act1$", "stem"),
    (r"^blocks\.9\.0\.conv\b", "final.conv"),
    (r"^blocks\.9\.0\.bn1\b", "final.norm"),
    # The official code starts a list of blocks with each strided one and another after it: two lists are a stage.
    (r"^blocks\.(\d+)\.(\d+)\b", lambda m: _block(int(m[1]), int(m[2]))),
    (r"\.ghost1\b", ".expand"),
    (r"\.ghost2\b", ".project"),
    (r"\.conv_dw\b", ".depthwise.conv"),
    (r"\.bn_dw\b", ".depthwise.norm"),
    (r"\.primary_conv\b", ".primary"),
    (r"\.cheap_operation\b", ".cheap"),
    (r"\.(primary|cheap)\.0\b", r".\1.conv"),
    (r"\.(primary|cheap)\.1\b", r".\1.norm"),
    (r"\.(primary|cheap)_rpr_(scale|skip)\b", r".\1.\2"),
    (r"\.(primary|cheap)_rpr_conv\b", r".\1.branches"),
    (r"\.dw_rpr_scale\b", ".depthwise.scale"),
    (r"\.dw_rpr_conv\b", ".depthwise.branches"),
    (r"\.(branches\.\d+|scale)\.bn1?\b", r".\1.norm"),
    (r"\.short_conv\.(\d)\b", lambda m: f".attention.{_ATTENTION[int(m[1])]}"),
    (r"\.short_conv$", ".attention.vertical"),
    (r"\.se\b", ".squeeze_excite"),
    (r"\.conv_(reduce|expand)\b", r".\1"),
    (r"\.shortcut\.(\d)\b", lambda m: f".shortcut.{_SHORTCUT[int(m[1])]}"),
    (r"^conv_head\b", "head"),
)


def _block(group: int, position: int) -> str:
    stage, continued = (group + 1) // 2, group > 0 and group % 2 == 0
    return f"stages.{stage}.blocks.{position + continued}"


def adapt(state_dict: dict, config: GhostNetConfig) -> GhostNetConfig:
    """The configuration of the checkpoint's layout (names as ours already): folded if the official code fused it."""
    if any(name.endswith(".primary.conv.bias") for name in state_dict):
        config.reparameterized = True
    return config
