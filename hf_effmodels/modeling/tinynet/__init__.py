"""TinyNet."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="tinynet",
        title="TinyNet",
        package=__name__,
        config="TinyNetConfig",
        auto_classes=vision_classes("TinyNet"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets",
        arxiv="2010.14819",
        repository="https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/tinynet_pytorch",
    ),
)
