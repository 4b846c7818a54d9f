"""ADEM-VL."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="adem_vl",
        title="ADEM-VL",
        package=__name__,
        config="AdemVLConfig",
        auto_classes={
            "AutoModel": "AdemVLModel",
            "AutoModelForImageTextToText": "AdemVLForConditionalGeneration",
            "AutoModelForMultimodalLM": "AdemVLForConditionalGeneration",
        },
        image_processor=MappingProxyType({"pil": "CLIPImageProcessorPil", "torchvision": "CLIPImageProcessor"}),
        processor="AdemVLProcessor",
        base_models=MappingProxyType({"text": None, "vision": "openai/clip-vit-large-patch14"}),
        paper="ADEM-VL: Adaptive and Embedded Fusion for Efficient Vision-Language Tuning",
        arxiv="2410.17779",
        repository="https://github.com/Hao840/ADEM-VL",
    ),
)
