"""CDFKD-MFS: students of several teachers with a head for each, and those teachers."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="cdfkd_mfs",
        title="CDFKD-MFS",
        package=__name__,
        config="CdfkdMfsConfig",
        auto_classes=vision_classes("CdfkdMfs"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="CDFKD-MFS: Collaborative Data-free Knowledge Distillation via Multi-level Feature Sharing",
        arxiv="2205.11845",
        repository="https://github.com/Hao840/CDFKD-MFS",
    ),
)
