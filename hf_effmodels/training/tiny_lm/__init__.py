"""The tiny-LM workshop: what "Rethinking Optimization and Architecture for Tiny Language Models" does to make a small
language model out of a large one (https://arxiv.org/abs/2402.02791). Each step is a function here and a sub-command of
`hf-effmodels tiny-lm`.
"""

import importlib

#: Public name -> module. Imported when asked for: the processes that count tokens need neither torch nor transformers.
_MODULES = {
    "CompressionReport": "report",
    "DrawnDataset": "resampling",
    "IdMap": "id_map",
    "Inheritance": "inheritance",
    "LossWeightedSampler": "resampling",
    "ParameterCount": "sizes",
    "SentencePieceBPE": "sentencepiece_bpe",
    "Shape": "sizes",
    "TokenCounts": "token_counts",
    "check_inheritance": "inheritance",
    "compress_embeddings": "embedding_compression",
    "compress_tokenizer": "tokenizer_compression",
    "compression_report": "report",
    "compute_losses": "sample_losses",
    "count_parameters": "sizes",
    "count_tokens": "token_counts",
    "draw_by_loss": "resampling",
    "inherit": "inheritance",
    "list_shapes": "sizes",
    "loss_probabilities": "resampling",
    "optimizer_settings": "optimization",
    "remap_dataset": "dataset_remapping",
    "scale_learning_rate": "optimization",
    "spread_layers": "inheritance",
    "suggest_config": "sizes",
    "train_rounds": "rounds",
    "unreachable_ids": "tokenizer_compression",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
