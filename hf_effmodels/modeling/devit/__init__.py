"""DeViT: one classifier made of small vision transformers, each on a device of its own, and their fusion."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="devit",
        title="DeViT",
        package=__name__,
        config="DeViTConfig",
        auto_classes=vision_classes("DeViT"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="DeViT: Decomposing Vision Transformers for Collaborative Inference in Edge Devices",
        arxiv="2309.05015",
        repository="https://github.com/falcon-xu/DeViT",
    ),
)
