"""Official TinyNet checkpoints, and timm's of the same names -> ours."""

import re

from .configuration_tinynet import TinyNetConfig

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: 1×1 convolutions on pooled features, which are linear layers here.
RESHAPED = re.compile(r"squeeze_excite\.(reduce|expand)\.weight$")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^conv_stem\b", "stem.convolution.conv"),
    (r"^bn1\b", "stem.convolution.norm"),
    (r"^act1$", "stem"),
    (r"^conv_head\b", "final.conv"),
    (r"^bn2\b", "final.norm"),
    # The first stage is depthwise separable: conv_dw, bn1, conv_pw, bn2.
    (r"^(blocks\.0\.\d+)\.bn1\b", r"\1.depthwise.norm"),
    (r"^(blocks\.0\.\d+)\.conv_pw\b", r"\1.project.conv"),
    (r"^(blocks\.0\.\d+)\.bn2\b", r"\1.project.norm"),
    # The others are inverted residuals: conv_pw, bn1, conv_dw, bn2, conv_pwl, bn3.
    (r"^(blocks\.\d+\.\d+)\.conv_pw\b", r"\1.expand.conv"),
    (r"^(blocks\.\d+\.\d+)\.bn1\b", r"\1.expand.norm"),
    (r"^(blocks\.\d+\.\d+)\.conv_dw\b", r"\1.depthwise.conv"),
    (r"^(blocks\.\d+\.\d+)\.bn2\b", r"\1.depthwise.norm"),
    (r"^(blocks\.\d+\.\d+)\.conv_pwl\b", r"\1.project.conv"),
    (r"^(blocks\.\d+\.\d+)\.bn3\b", r"\1.project.norm"),
    (r"\.se\b", ".squeeze_excite"),
    (r"\.conv_(reduce|expand)\b", r".\1"),
    (r"^blocks\.(\d+)\.(\d+)\b", r"stages.\1.blocks.\2"),
    (r"^blocks\.(\d+)$", r"stages.\1"),
)


def adapt(state_dict: dict, config: TinyNetConfig) -> TinyNetConfig:
    """The configuration of the checkpoint's layout: there is only one."""
    return config
