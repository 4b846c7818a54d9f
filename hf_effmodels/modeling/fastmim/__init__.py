"""FastMIM."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="fastmim",
        title="FastMIM",
        package=__name__,
        config="FastMimConfig",
        auto_classes=MappingProxyType({"AutoModelForPreTraining": "FastMimForPreTraining"}),
        image_processor=MappingProxyType({"pil": "ViTImageProcessorPil", "torchvision": "ViTImageProcessor"}),
        paper="FastMIM: Expediting Masked Image Modeling Pre-training for Vision",
        arxiv="2212.06593",
        repository="https://github.com/ggjy/FastMIM.pytorch",
    ),
)
