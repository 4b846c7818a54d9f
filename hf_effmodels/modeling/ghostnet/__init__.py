"""GhostNet, GhostNetV2 and GhostNetV3."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

_BACKBONES = "https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/"

ENTRIES = (
    Architecture(
        model_type="ghostnet",
        title="GhostNet",
        package=__name__,
        config="GhostNetConfig",
        auto_classes=vision_classes("GhostNet"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="GhostNet: More Features from Cheap Operations",
        arxiv="1911.11907",
        repository=_BACKBONES + "ghostnet_pytorch",
    ),
    Architecture(
        model_type="ghostnetv2",
        title="GhostNetV2",
        package=__name__,
        config="GhostNetV2Config",
        auto_classes=vision_classes("GhostNetV2"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="GhostNetV2: Enhance Cheap Operation with Long-Range Attention",
        arxiv="2211.12905",
        repository=_BACKBONES + "ghostnetv2_pytorch",
    ),
    Architecture(
        model_type="ghostnetv3",
        title="GhostNetV3",
        package=__name__,
        config="GhostNetV3Config",
        auto_classes=vision_classes("GhostNetV3"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="GhostNetV3: Exploring the Training Strategies for Compact Models",
        arxiv="2404.11202",
        repository=_BACKBONES + "ghostnetv3_pytorch",
    ),
)
