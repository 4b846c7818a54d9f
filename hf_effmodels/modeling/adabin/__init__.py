"""AdaBin."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="adabin",
        title="AdaBin",
        package=__name__,
        config="AdaBinConfig",
        auto_classes=vision_classes("AdaBin"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="AdaBin: Improving Binary Neural Networks with Adaptive Binary Sets",
        arxiv="2208.08084",
        repository="https://github.com/huawei-noah/Efficient-Computing/tree/master/BinaryNetworks/AdaBin",
    ),
)
