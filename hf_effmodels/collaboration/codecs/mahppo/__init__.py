"""MAHPPO's networks: classifiers whose features are sent in fewer channels and bits."""

from ....architecture import CONVNEXT_PROCESSOR, Architecture

ENTRIES = (
    Architecture(
        model_type="channel_coded_classifier",
        title="MAHPPO",
        package=__name__,
        config="ChannelCodedConfig",
        auto_classes={"AutoModelForImageClassification": "ChannelCodedForImageClassification"},
        image_processor=CONVNEXT_PROCESSOR,
        in_halves=True,
        paper="Multi-Agent Collaborative Inference via DNN Decoupling: Intermediate Feature Compression and Edge "
        "Learning",
        arxiv="2205.11854",
        repository="https://github.com/Hao840/MAHPPO",
    ),
)
