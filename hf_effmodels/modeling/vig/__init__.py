"""ViG and Pyramid ViG."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

_REPOSITORY = "https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/vig_pytorch"

ENTRIES = (
    Architecture(
        model_type="vig",
        title="ViG",
        package=__name__,
        config="VigConfig",
        auto_classes=vision_classes("Vig"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="Vision GNN: An Image is Worth Graph of Nodes",
        arxiv="2206.00272",
        repository=_REPOSITORY,
    ),
    Architecture(
        model_type="pyramidvig",
        title="Pyramid ViG",
        package=__name__,
        config="PyramidVigConfig",
        auto_classes=vision_classes("PyramidVig"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="Vision GNN: An Image is Worth Graph of Nodes",
        arxiv="2206.00272",
        repository=_REPOSITORY,
    ),
)
