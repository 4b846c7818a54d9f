"""SparK."""

from types import MappingProxyType

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="spark",
        title="SparK",
        package=__name__,
        config="SparkConfig",
        auto_classes=MappingProxyType({"AutoModelForPreTraining": "SparkForPreTraining"}),
        image_processor=MappingProxyType({"pil": "ViTImageProcessorPil", "torchvision": "ViTImageProcessor"}),
        paper="Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling",
        arxiv="2301.03580",
        repository="https://github.com/keyu-tian/SparK",
    ),
)
