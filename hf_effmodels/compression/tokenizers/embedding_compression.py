"""A model for a compressed tokenizer: the rows of embedding and head that are kept, everything else untouched."""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .id_map import IdMap

#: More rows without a token than this, and than a tenth of all, and the tokenizer is not this model's.
_MOST_UNUSED_ROWS = 1024


def compress_embeddings(model: PreTrainedModel, id_map: IdMap) -> PreTrainedModel:
    """Keep the rows of a model's embedding and head that a compressed tokenizer needs.

    For a text whose old encoding has kept ids only, the logits of the kept ids stay the same. A tied head stays tied.
    The vocabulary size and the special ids (of padding, begin, end and generation) in `config` and
    `generation_config` follow.

    Args:
        model: changed in place.
        id_map: what `compress_tokenizer` returned.

    Returns:
        `model`.

    Raises:
        ValueError: the map is for another vocabulary, or drops a special id of the model.
    """
    check_vocabulary(model.config, id_map)
    _check_special(getattr(model, "generation_config", None), id_map)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight.shape[0] < id_map.old_size:
        raise ValueError(
            f"model: its embedding has {embedding.weight.shape[0]} rows, the tokenizer has {id_map.old_size} tokens."
        )
    kept = torch.tensor(id_map.kept, device=embedding.weight.device)
    old_size, new_ids = model.config.get_text_config().vocab_size, id_map.new_ids()
    model.set_input_embeddings(_smaller_embedding(embedding, kept, new_ids))
    if head is not None:
        tied = head.weight is embedding.weight
        smaller = _smaller_head(head, kept)
        if tied:
            smaller.weight = model.get_input_embeddings().weight
        model.set_output_embeddings(smaller)
    for module in model.modules():
        if getattr(module, "vocab_size", None) == old_size:
            module.vocab_size = len(id_map)
        if isinstance(getattr(module, "padding_idx", None), int) and not isinstance(module, nn.Embedding):
            module.padding_idx = _new_id(module.padding_idx, new_ids)
    model.config.get_text_config().vocab_size = len(id_map)
    settings = (model.config, model.config.get_text_config(), getattr(model, "generation_config", None))
    for each in {id(each): each for each in settings if each is not None}.values():
        _renumber(each, new_ids)
    return model


def check_vocabulary(config: PreTrainedConfig, id_map: IdMap) -> None:
    """Whether the map can be of this model's tokenizer.

    Raises:
        ValueError: it cannot.
    """
    check_vocabulary_size(config, id_map.old_size)
    _check_special(config.get_text_config(), id_map)


def _check_special(settings, id_map: IdMap) -> None:
    if settings is None:
        return
    new_ids = id_map.new_ids()
    for name, value in _special_ids(settings).items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if not 0 <= number < id_map.old_size or new_ids[number] < 0:
                raise ValueError(
                    f"id_map: the model's {name} {number} is not kept; name it in keep, or correct the model's config."
                )


def check_vocabulary_size(config: PreTrainedConfig, tokens: int) -> None:
    """Whether a model's vocabulary can be that of a tokenizer with so many tokens.

    Raises:
        ValueError: it is smaller, or so much larger that it is another's.
    """
    rows = config.get_text_config().vocab_size
    if rows < tokens:
        raise ValueError(
            f"model: its vocabulary has {rows} tokens, the tokenizer's {tokens}: they do not belong together."
        )
    if rows - tokens > max(_MOST_UNUSED_ROWS, rows // 10):
        raise ValueError(
            f"model: its vocabulary has {rows} tokens, the tokenizer's only {tokens}: they do not belong together."
        )


def _smaller_embedding(embedding: nn.Embedding, kept: torch.Tensor, new_ids) -> nn.Embedding:
    padding = embedding.padding_idx
    smaller = nn.Embedding(
        len(kept),
        embedding.embedding_dim,
        None if padding is None else _new_id(padding, new_ids),
        max_norm=embedding.max_norm,
        _weight=embedding.weight.detach()[kept].clone(),
    )
    smaller.weight.requires_grad_(embedding.weight.requires_grad)
    return smaller.train(embedding.training)


def _smaller_head(head: nn.Linear, kept: torch.Tensor) -> nn.Linear:
    smaller = nn.Linear(head.in_features, len(kept), bias=head.bias is not None, device="meta")
    smaller.weight = nn.Parameter(head.weight.detach()[kept].clone(), head.weight.requires_grad)
    if head.bias is not None:
        smaller.bias = nn.Parameter(head.bias.detach()[kept].clone(), head.bias.requires_grad)
    return smaller.train(head.training)


def _special_ids(settings) -> dict[str, int | list[int]]:
    """Fields that hold token ids, without the unset ones; -1 also means unset."""
    found = {name: value for name, value in vars(settings).items() if name.endswith("_token_id")}
    return {name: value for name, value in found.items() if value not in (None, -1)}


def _new_id(old: int, new_ids) -> int | None:
    return int(new_ids[old]) if 0 <= old < len(new_ids) and new_ids[old] >= 0 else None


def _renumber(settings, new_ids) -> None:
    for name, value in _special_ids(settings).items():
        if isinstance(value, (list, tuple)):
            setattr(settings, name, [_new_id(number, new_ids) for number in value])
        else:
            setattr(settings, name, _new_id(value, new_ids))
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if getattr(settings, name, None):
            kept = (_new_id(number, new_ids) for number in getattr(settings, name))
            setattr(settings, name, [number for number in kept if number is not None])
    for name in ("bad_words_ids", "force_words_ids"):
        if getattr(settings, name, None):
            words = [[_new_id(number, new_ids) for number in word] for word in getattr(settings, name)]
            setattr(settings, name, [word for word in words if None not in word] or None)
