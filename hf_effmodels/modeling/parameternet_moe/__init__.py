"""ParameterNet for language: LLaMA with a mixture of down projections."""

from ...architecture import Architecture, decoder_classes

ENTRIES = (
    Architecture(
        model_type="parameternet_moe",
        title="ParameterNet-MoE",
        package=__name__,
        config="ParameterNetMoeConfig",
        auto_classes=decoder_classes("ParameterNetMoe"),
        paper="ParameterNet: Parameters Are All You Need",
        arxiv="2306.14525",
        repository="https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/parameternet_pytorch",
    ),
)
