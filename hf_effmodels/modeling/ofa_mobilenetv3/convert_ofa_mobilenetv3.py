"""Official checkpoints of the elastic MobileNetV3, and of sub-networks that were taken out of it -> ours."""

import re

from .configuration_ofa_mobilenetv3 import OfaMobileNetV3Config

#: Profiling counters that training scripts leave among the weights.
IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: 1×1 convolutions on pooled features, which are linear layers here.
RESHAPED = re.compile(r"(squeeze_excite\.(reduce|expand)|features)\.weight$")

#: Applied one after the other. Blocks keep their number, which `adapt` makes one of a stage.
RULES = (
    (r"^first_conv\.conv\b", "stem.convolution.conv"),
    (r"^first_conv\.bn\b", "stem.convolution.norm"),
    (r"^(blocks\.\d+)\.mobile_inverted_conv\b", r"\1.conv"),
    (r"^(blocks\.\d+)\.conv\.inverted_bottleneck\b", r"\1.expand"),
    (r"^(blocks\.\d+)\.conv\.depth_conv\.se\.fc\b", r"\1.squeeze_excite"),
    (r"^(blocks\.\d+)\.conv\.depth_conv\.conv\.(\d+to\d+)_matrix$", r"\1.kernel_transforms.\2"),
    (r"^(blocks\.\d+)\.conv\.depth_conv\b", r"\1.depthwise"),
    (r"^(blocks\.\d+)\.conv\.point_linear\b", r"\1.project"),
    # The elastic layers hold an ordinary one.
    (r"\.(expand|depthwise|project)\.conv\.conv\b", r".\1.conv"),
    (r"\.(expand|depthwise|project)\.bn(\.bn)?\b", r".\1.norm"),
    (r"^final_expand_layer\.conv\b", "final.conv"),
    (r"^final_expand_layer\.bn\b", "final.norm"),
    (r"^feature_mix_layer\.conv\b", "features"),
    (r"^classifier\.linear(\.linear)?\b", "classifier"),
)


def adapt(state_dict: dict, config: OfaMobileNetV3Config) -> OfaMobileNetV3Config:
    """Numbers the blocks by their stages."""
    stages = [(0, 0)]
    for stage in range(config.num_elastic_stages):
        stages += [(stage + 1, position) for position in range(len(config.blocks_of(stage)))]
    for name in list(state_dict):
        if found := re.match(r"blocks\.(\d+)\.(.+)", name):
            stage, position = stages[int(found[1])]
            state_dict[f"stages.{stage}.blocks.{position}.{found[2]}"] = state_dict.pop(name)
    return config
