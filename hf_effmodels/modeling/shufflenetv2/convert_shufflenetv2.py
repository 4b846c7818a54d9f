"""torchvision's ShuffleNetV2 checkpoints -> ours."""

import re

from .configuration_shufflenetv2 import ShuffleNetV2Config

IGNORED = re.compile(r"(?!)")
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^conv1\.0\b", "stem.convolution.conv"),
    (r"^conv1\.1\b", "stem.convolution.norm"),
    (r"^maxpool$", "stem"),
    (r"^conv5\.0\b", "final.conv"),
    (r"^conv5\.1\b", "final.norm"),
    (r"^fc\b", "classifier"),
    # Numbers in a branch: convolutions, norms and activations one after the other.
    (r"\.branch1\.0\b", ".shortcut.0.conv"),
    (r"\.branch1\.1\b", ".shortcut.0.norm"),
    (r"\.branch1\.2\b", ".shortcut.1.conv"),
    (r"\.branch1\.3\b", ".shortcut.1.norm"),
    (r"\.branch2\.0\b", ".reduce.conv"),
    (r"\.branch2\.1\b", ".reduce.norm"),
    (r"\.branch2\.3\b", ".depthwise.conv"),
    (r"\.branch2\.4\b", ".depthwise.norm"),
    (r"\.branch2\.5\b", ".expand.conv"),
    (r"\.branch2\.6\b", ".expand.norm"),
    (r"^stage2\b", "stages.0"),
    (r"^stage3\b", "stages.1"),
    (r"^stage4\b", "stages.2"),
    (r"^(stages\.\d)\.(\d+)\b", r"\1.units.\2"),
)


def adapt(state_dict: dict, config: ShuffleNetV2Config) -> ShuffleNetV2Config:
    """The configuration of the checkpoint's layout: there is only one."""
    return config
