"""TinyViT."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="tinyvit",
        title="TinyViT",
        package=__name__,
        config="TinyVitConfig",
        auto_classes=vision_classes("TinyVit"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="TinyViT: Fast Pretraining Distillation for Small Vision Transformers",
        arxiv="2207.10666",
        repository="https://github.com/microsoft/Cream/tree/main/TinyViT",
    ),
)
