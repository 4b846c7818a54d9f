"""DeLVM: a causal transformer over image tokens told by (image, answer) pairs what to do (arXiv:2402.04841)."""

from ...architecture import PipelineEntry

ENTRIES = (
    PipelineEntry(
        title="DeLVM",
        package=__name__,
        task="visual-prompting",
        classes={
            "pipeline_delvm": ("DelvmPipeline",),
            "image_tokenizer_delvm": ("DelvmImageTokenizer",),
        },
        code=("pipeline_delvm", "image_tokenizer_delvm", "llama_steps"),
        paper="Data-efficient Large Vision Models through Sequential Autoregression",
        arxiv="2402.04841",
        repository="https://github.com/ggjy/DeLVM",
    ),
)
