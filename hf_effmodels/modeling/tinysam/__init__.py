"""TinySAM."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="tinysam",
        title="TinySAM",
        package=__name__,
        config="TinySamConfig",
        auto_classes={"AutoModel": "TinySamModel", "AutoModelForMaskGeneration": "TinySamModel"},
        image_processor=MappingProxyType({"pil": "SamImageProcessorPil", "torchvision": "SamImageProcessor"}),
        stock_processor="SamProcessor",
        paper="TinySAM: Pushing the Envelope for Efficient Segment Anything Model",
        arxiv="2312.13789",
        repository="https://github.com/xinghaochen/TinySAM",
    ),
)
