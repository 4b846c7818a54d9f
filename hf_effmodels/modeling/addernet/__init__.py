"""AdderNet."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="addernet",
        title="AdderNet",
        package=__name__,
        config="AdderNetConfig",
        auto_classes=vision_classes("AdderNet"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="AdderNet: Do We Really Need Multiplications in Deep Learning?",
        arxiv="1912.13200",
        repository="https://github.com/huawei-noah/AdderNet",
    ),
)
