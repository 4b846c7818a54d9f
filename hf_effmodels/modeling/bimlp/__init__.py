"""BiMLP."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="bimlp",
        title="BiMLP",
        package=__name__,
        config="BiMlpConfig",
        auto_classes=vision_classes("BiMlp"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="BiMLP: Compact Binary Architectures for Vision Multi-Layer Perceptrons",
        arxiv="2212.14158",
        repository="https://gitee.com/mindspore/models/tree/master/research/cv/BiMLP",
    ),
)
