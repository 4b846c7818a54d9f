"""LocalMIM."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="localmim",
        title="LocalMIM",
        package=__name__,
        config="LocalMimConfig",
        auto_classes=MappingProxyType({"AutoModelForPreTraining": "LocalMimForPreTraining"}),
        image_processor=MappingProxyType({"pil": "ViTImageProcessorPil", "torchvision": "ViTImageProcessor"}),
        paper="Masked Image Modeling with Local Multi-Scale Reconstruction",
        arxiv="2303.05251",
        repository="https://github.com/huawei-noah/Efficient-Computing/tree/master/Self-supervised/LocalMIM",
    ),
)
