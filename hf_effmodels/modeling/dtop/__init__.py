"""Dynamic token pruning for semantic segmentation."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="dtop",
        title="DToP",
        package=__name__,
        config="DtopConfig",
        auto_classes={"AutoModelForSemanticSegmentation": "DtopForSemanticSegmentation"},
        image_processor=MappingProxyType(
            {"pil": "SegformerImageProcessorPil", "torchvision": "SegformerImageProcessor"}
        ),
        paper="Dynamic Token Pruning in Plain Vision Transformers for Semantic Segmentation",
        arxiv="2308.01045",
        repository="https://github.com/zbwxp/Dynamic-Token-Pruning",
    ),
)
