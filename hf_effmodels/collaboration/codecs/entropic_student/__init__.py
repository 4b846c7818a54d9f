"""Entropic Student: classifiers whose first layers are a learnt code of few bits."""

from ....architecture import CONVNEXT_PROCESSOR, Architecture

ENTRIES = (
    Architecture(
        model_type="coded_classifier",
        title="Entropic Student",
        package=__name__,
        config="CodedConfig",
        auto_classes={"AutoModelForImageClassification": "CodedForImageClassification"},
        image_processor=CONVNEXT_PROCESSOR,
        in_halves=True,
        paper="Supervised Compression for Resource-Constrained Edge Computing Systems",
        arxiv="2108.11898",
        repository="https://github.com/yoshitomo-matsubara/sc2-benchmark",
    ),
)
