"""ShuffleNetV2."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="shufflenetv2",
        title="ShuffleNetV2",
        package=__name__,
        config="ShuffleNetV2Config",
        auto_classes=vision_classes("ShuffleNetV2"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
        arxiv="1807.11164",
        repository="https://github.com/pytorch/vision/blob/main/torchvision/models/shufflenetv2.py",
    ),
)
