"""The tiny-LM workshop: what "Rethinking Optimization and Architecture for Tiny Language Models" does to make a small
language model out of a large one (https://arxiv.org/abs/2402.02791). Each step is a function here and a sub-command of
`hf-effmodels tiny-lm`.
"""

import importlib

#: Public name -> module. Imported when asked for: the processes that count tokens need neither torch nor transformers.
_MODULES = {
    "CompressionReport": ".tokenizers.report",
    "DrawnDataset": "..training.run.rounds.resampling",
    "IdMap": ".tokenizers.id_map",
    "Inheritance": ".pruning.inheritance",
    "LossWeightedSampler": "..training.run.rounds.resampling",
    "ParameterCount": ".sizes",
    "SentencePieceBPE": ".tokenizers.sentencepiece_bpe",
    "Shape": ".sizes",
    "TokenCounts": ".tokenizers.token_counts",
    "check_inheritance": ".pruning.inheritance",
    "compress_embeddings": ".tokenizers.embedding_compression",
    "compress_tokenizer": ".tokenizers.tokenizer_compression",
    "compression_report": ".tokenizers.report",
    "compute_losses": "..training.run.rounds.sample_losses",
    "count_parameters": ".sizes",
    "count_tokens": ".tokenizers.token_counts",
    "draw_by_loss": "..training.run.rounds.resampling",
    "inherit": ".pruning.inheritance",
    "list_shapes": ".sizes",
    "loss_probabilities": "..training.run.rounds.resampling",
    "optimizer_settings": "..training.optim.batch_scaling",
    "remap_dataset": ".tokenizers.dataset_remapping",
    "scale_learning_rate": "..training.optim.batch_scaling",
    "spread_layers": ".pruning.inheritance",
    "suggest_config": ".sizes",
    "train_rounds": "..training.run.rounds.rounds",
    "unreachable_ids": ".tokenizers.tokenizer_compression",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
