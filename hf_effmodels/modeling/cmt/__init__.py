"""CMT."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="cmt",
        title="CMT",
        package=__name__,
        config="CmtConfig",
        auto_classes=vision_classes("Cmt"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="CMT: Convolutional Neural Networks Meet Vision Transformers",
        arxiv="2107.06263",
        repository="https://github.com/ggjy/FastMIM.pytorch",
    ),
)
