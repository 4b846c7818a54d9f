"""PanGu-π."""

from ...architecture import Architecture, decoder_classes

ENTRIES = (
    Architecture(
        model_type="pangu_pi",
        title="PanGu-π",
        package=__name__,
        config="PanguPiConfig",
        auto_classes=decoder_classes("PanguPi"),
        paper="PanGu-π: Enhancing Language Model Architectures via Nonlinearity Compensation",
        arxiv="2312.17276",
        repository="https://arxiv.org/abs/2312.17276",  # no official code is public
    ),
)
