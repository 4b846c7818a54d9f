"""The elastic MobileNetV3 of Once-for-All, DεpS and BigNAS-style training: one network with the weights of many."""

from ...architecture import CONVNEXT_PROCESSOR, Architecture, vision_classes

ENTRIES = (
    Architecture(
        model_type="ofa_mobilenetv3",
        title="Once-for-All MobileNetV3",
        package=__name__,
        config="OfaMobileNetV3Config",
        auto_classes=vision_classes("OfaMobileNetV3"),
        image_processor=CONVNEXT_PROCESSOR,
        paper="Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        arxiv="1908.09791",
        repository="https://github.com/gatech-sysml/DepS",
    ),
)
