"""ParameterNet."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="parameternet",
        title="ParameterNet",
        package=__name__,
        config="ParameterNetConfig",
        auto_classes=vision_classes("ParameterNet"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="ParameterNet: Parameters Are All You Need for Large-scale Visual Pretraining of Mobile Networks",
        arxiv="2306.14525",
        repository="https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/parameternet_pytorch",
    ),
)
