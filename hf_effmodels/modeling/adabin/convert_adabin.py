"""Official AdaBin checkpoints -> ours: PyTorch's, and MindSpore's names of the same network."""

import re

import torch

from .configuration_adabin import AdaBinConfig

#: Profiling counters, and two layers of the ImageNet networks that the official forward pass never uses.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$|^(nonlinear2|bn3)\.")

#: MindSpore has the scales of Maxout as (1, channels, 1, 1), and scalars as (1,).
RESHAPED = re.compile(r"\.(positive_scale|negative_scale|alpha|beta)$")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    # MindSpore's names of the norms' weights.
    (r"\.gamma$", ".weight"),
    (r"(bn\d|shortcut\.1|downsample\.2)\.beta$", r"\1.bias"),
    (r"\.moving_mean$", ".running_mean"),
    (r"\.moving_variance$", ".running_var"),
    (r"\.binary_a\b", ".binarizer"),
    (r"\.(alpha|beta)_a$", r".\1"),
    (r"\.neg_scale$", ".negative_scale"),
    (r"\.pos_scale$", ".positive_scale"),
    (r"^conv1\b", "stem.convolution.conv"),
    (r"^bn1\b", "stem.convolution.norm"),
    (r"^nonlinear1\b", "stem.activation"),
    (r"^maxpool$", "stem"),
    (r"^bn2\b", "norm"),
    (r"^(linear|fc)\b", "classifier"),
    (r"^layer(\d+)\b", lambda m: f"stages.{int(m[1]) - 1}"),
    (r"^(stages\.\d+)\.(\d+)\b", r"\1.blocks.\2"),
    (r"^(stages\.\d+\.blocks\.\d+)\.conv(\d)\b", r"\1.convolution\2.conv"),
    (r"^(stages\.\d+\.blocks\.\d+)\.bn(\d)\b", r"\1.convolution\2.norm"),
    (r"^(stages\.\d+\.blocks\.\d+)\.nonlinear(\d)\b", r"\1.activation\2"),
    # CIFAR: convolution, norm. ImageNet: pooling (no weights), convolution, norm.
    (r"\.shortcut\.0\b", ".shortcut.projection.conv"),
    (r"\.shortcut\.1\b", ".shortcut.projection.norm"),
    (r"\.downsample\.1\b", ".shortcut.projection.conv"),
    (r"\.downsample\.2\b", ".shortcut.projection.norm"),
)


def adapt(state_dict: dict[str, torch.Tensor], config: AdaBinConfig) -> AdaBinConfig:
    """The configuration of the checkpoint's layout: there is only one."""
    return config
