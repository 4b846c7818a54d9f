"""LightCLIP."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="light_clip",
        title="LightCLIP",
        package=__name__,
        config="LightClipConfig",
        auto_classes=MappingProxyType(
            {
                "AutoModel": "LightClipModel",
                "AutoModelForZeroShotImageClassification": "LightClipModel",
                "AutoModelForPreTraining": "LightClipForPreTraining",
            }
        ),
        image_processor=MappingProxyType({"pil": "CLIPImageProcessorPil", "torchvision": "CLIPImageProcessor"}),
        stock_processor="CLIPProcessor",
        paper="LightCLIP: Learning Multi-Level Interaction for Lightweight Vision-Language Models",
        arxiv="2312.00674",
        repository="https://arxiv.org/abs/2312.00674",
    ),
)
