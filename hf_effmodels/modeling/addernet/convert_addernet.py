"""Official AdderNet checkpoints -> ours."""

import re

from .configuration_addernet import AdderNetConfig

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: A 1×1 convolution on pooled features, which is a linear layer here.
RESHAPED = re.compile(r"classifier\.weight$")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"\.adder$", ".weight"),
    (r"\.b$", ".bias"),
    (r"^conv1\b", "stem.convolution.conv"),
    (r"^bn1\b", "stem.convolution.norm"),
    (r"^fc\b", "classifier"),
    (r"^bn2\b", "norm"),
    (r"^layer(\d+)\b", lambda m: f"stages.{int(m[1]) - 1}"),
    (r"^(stages\.\d+)\.(\d+)\b", r"\1.blocks.\2"),
    (r"^(stages\.\d+\.blocks\.\d+)\.conv(\d)\b", r"\1.adder\2.conv"),
    (r"^(stages\.\d+\.blocks\.\d+)\.bn(\d)\b", r"\1.adder\2.norm"),
    (r"\.downsample\.0\b", ".shortcut.conv"),
    (r"\.downsample\.1\b", ".shortcut.norm"),
)


def adapt(state_dict: dict, config: AdderNetConfig) -> AdderNetConfig:
    """The configuration of the checkpoint's layout: there is only one."""
    return config
