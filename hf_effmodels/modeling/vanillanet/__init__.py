"""VanillaNet."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="vanillanet",
        title="VanillaNet",
        package=__name__,
        config="VanillaNetConfig",
        auto_classes=vision_classes("VanillaNet"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="VanillaNet: the Power of Minimalism in Deep Learning",
        arxiv="2305.12972",
        repository="https://github.com/huawei-noah/VanillaNet",
    ),
)
