"""Official VanillaNet checkpoints -> ours: as trained (with the moving average under `model_ema`), or deployed."""

import re

from .configuration_vanillanet import VanillaNetConfig

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: Every weight has its official shape.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    # As trained: stem1 and stem2, conv1 and conv2, cls1 and cls2 are the two halves of a layer.
    (r"^stem1\.0\b", "stem.convolution.conv1"),
    (r"^stem1(\.1\b|$)", "stem.convolution.norm1"),
    (r"^stem2\.0\b", "stem.convolution.conv2"),
    (r"^stem2\.1\b", "stem.convolution.norm2"),
    (r"^stem2\.2\b", "stem.act"),
    (r"^stem2$", "stem"),
    (r"^(stages\.\d+)\.conv([12])\.0\b", r"\1.convolution.conv\2"),
    (r"^(stages\.\d+)\.conv([12])(\.1\b|$)", r"\1.convolution.norm\2"),
    (r"^cls1\.2\b", "classifier.conv1"),
    (r"^cls1(\.3\b|$)", "classifier.norm1"),
    (r"^cls2(\.0\b|$)", "classifier.conv2"),
    # Deployed.
    (r"^stem\.0\b", "stem.convolution.conv"),
    (r"^stem\.1\b", "stem.act"),
    (r"^(stages\.\d+)\.conv(?=\.(weight|bias)$)", r"\1.convolution.conv"),
    (r"^(stages\.\d+)\.conv$", r"\1.convolution"),
    (r"^cls(\.2\b|$)", "classifier.conv"),
    # Both.
    (r"\.act\.bn\b", ".activation.norm"),
    (r"\.act\.(weight|bias)$", r".activation.conv.\1"),
    (r"\.act$", ".activation"),
)


def adapt(state_dict: dict, config: VanillaNetConfig) -> VanillaNetConfig:
    """The configuration of the checkpoint's layout (names as ours already): folded if that is the deployed one."""
    if "stem.convolution.conv.weight" in state_dict:
        config.reparameterized = True
    return config
