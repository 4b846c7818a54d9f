"""SimMIM."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="simmim",
        title="SimMIM",
        package=__name__,
        config="SimMimConfig",
        auto_classes=MappingProxyType({"AutoModelForPreTraining": "SimMimForPreTraining"}),
        image_processor=MappingProxyType({"pil": "ViTImageProcessorPil", "torchvision": "ViTImageProcessor"}),
        paper="SimMIM: A Simple Framework for Masked Image Modeling",
        arxiv="2111.09886",
        repository="https://github.com/microsoft/SimMIM",
    ),
)
