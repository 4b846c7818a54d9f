"""What the compression of a tokenizer costs and saves."""

import copy
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .dataset_remapping import expansions
from .embedding_compression import compress_embeddings
from .id_map import IdMap
from .pieces import kept_share
from .token_counts import TokenCounts
from .tokenizer_compression import Vocabulary, unreachable_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompressionReport:
    """Attributes:
    tokens_before, tokens_after: size of the vocabulary.
    coverage: share of the counted tokens that are kept ones.
    tokens_per_word_before, tokens_per_word_after: on the texts of the report (words between white space).
    unknown_before, unknown_after: share of unknown tokens in those texts. A word that is unknown as a whole is one
        token, so that fewer tokens per word are no gain where this grows.
    unreachable: kept pieces that no merge can build any more.
    parameters_before, parameters_after: of the whole model.
    embedding_parameters_before, embedding_parameters_after: of its embedding and head.
    """

    tokens_before: int
    tokens_after: int
    coverage: float
    tokens_per_word_before: float | None
    tokens_per_word_after: float | None
    unknown_before: float
    unknown_after: float
    unreachable: list[str]
    parameters_before: int | None
    parameters_after: int | None
    embedding_parameters_before: int | None
    embedding_parameters_after: int | None


def compression_report(
    tokenizer: PreTrainedTokenizerBase,
    compressed: PreTrainedTokenizerFast,
    id_map: IdMap,
    counts: TokenCounts,
    texts: Iterable[str] = (),
    config: PreTrainedConfig | None = None,
) -> CompressionReport:
    """Compare two tokenizers; a growing share of unknown tokens is logged as a warning.

    Args:
        counts: what the compression was based on.
        texts: to measure tokens per word and unknown tokens on; better others than those that were counted. Without
            any the counted tokens are measured, each dropped one spelt with those that are kept.
        config: of the model before its embeddings are compressed.
    """
    counts = TokenCounts.of(counts, id_map.old_size)
    texts = list(texts)
    words = sum(len(text.split()) for text in texts)
    if words:
        (before, unknown_before), (after, unknown_after) = (
            measure_texts(each, texts) for each in (tokenizer, compressed)
        )
    else:
        words = counts.words
        (before, unknown_before), (after, unknown_after) = _of_counts(tokenizer, compressed, id_map, counts)
    if unknown_after > unknown_before:
        logger.warning(
            "unknown tokens: %.2f %% of the text's before, %.2f %% after; a word that cannot be written any more is "
            "one of them. Keep more tokens.",
            100 * unknown_before,
            100 * unknown_after,
        )
    parameters = (None, None, None, None) if config is None else _parameters(config, id_map)
    return CompressionReport(
        tokens_before=len(tokenizer),
        tokens_after=len(compressed),
        coverage=kept_share(counts.counts, id_map.kept),
        tokens_per_word_before=before / words if words else None,
        tokens_per_word_after=after / words if words else None,
        unknown_before=unknown_before,
        unknown_after=unknown_after,
        unreachable=compressed.convert_ids_to_tokens(unreachable_ids(compressed)),
        parameters_before=parameters[0],
        parameters_after=parameters[2],
        embedding_parameters_before=parameters[1],
        embedding_parameters_after=parameters[3],
    )


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that stands for what a fast tokenizer cannot write; None where there is none."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model.get("type") == "Unigram":
        return model.get("unk_id")
    return tokenizer.backend_tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None


def measure_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[int, float]:
    """Number of tokens, without special tokens around the texts, and share of the unknown ones.

    Models without a token for the unknown leave out what they cannot write: each such character counts as one.
    """
    unknown, backend = unknown_id(tokenizer), tokenizer.backend_tokenizer
    if unknown is not None or Vocabulary(tokenizer).alphabet:
        encoded = [text.ids for text in backend.encode_batch_fast(texts, add_special_tokens=False)]
        tokens = sum(map(len, encoded))
        return tokens, sum(ids.count(unknown) for ids in encoded) / max(1, tokens)
    tokens = sum(len(text.ids) for text in backend.encode_batch_fast(texts, add_special_tokens=False))
    left_out = sum(_left_out(backend, word) * times for word, times in _words(backend, texts).items())
    return tokens + left_out, left_out / max(1, tokens + left_out)


def _words(backend: Tokenizer, texts: list[str]) -> Counter[str]:
    """What the model is given, as often as it is."""
    words = Counter()
    for text in texts:
        text = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        parts = [(text, None)] if backend.pre_tokenizer is None else backend.pre_tokenizer.pre_tokenize_str(text)
        words.update(word for word, _ in parts)
    return words


def _left_out(backend: Tokenizer, word: str) -> int:
    """How many characters of a word are in none of its tokens, white space aside."""
    model = backend.model
    marks = (model.continuing_subword_prefix or "", model.end_of_word_suffix or "")
    pieces = (token.value.removeprefix(marks[0]).removesuffix(marks[1]) for token in model.tokenize(word))
    written = Counter(character for piece in pieces for character in piece)
    return sum((Counter(word) - written)[character] for character in set(word) if not character.isspace())


def _of_counts(tokenizer, compressed, id_map: IdMap, counts: TokenCounts) -> tuple[tuple[int, float], ...]:
    """The same of the counted tokens, before and after."""
    old, new = unknown_id(tokenizer), unknown_id(compressed)
    spelt = expansions(tokenizer, compressed, id_map)
    total, tokens, unknown = counts.total, 0, 0
    for number in counts.counts.nonzero()[0].tolist():
        ids = spelt[number] or [new]  # nothing is left of it
        tokens += int(counts.counts[number]) * len(ids)
        unknown += int(counts.counts[number]) * ids.count(new)
    before = 0 if old is None else int(counts.counts[old])
    return (total, before / total), (tokens, unknown / tokens)


def _parameters(config: PreTrainedConfig, id_map: IdMap) -> tuple[int, int, int, int]:
    """Of the model, and of its embedding and head, before and after; nothing is built."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    before = _sizes(model)
    return *before, *_sizes(compress_embeddings(model, id_map))


def _sizes(model) -> tuple[int, int]:
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    own = {id(weight): weight.numel() for end in ends if end is not None for weight in end.parameters()}
    return sum(weight.numel() for weight in model.parameters()), sum(own.values())
