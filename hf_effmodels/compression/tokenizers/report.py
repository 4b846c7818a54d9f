"""What the compression of a tokenizer costs and saves."""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .id_map import IdMap
from .pieces import kept_share
from .token_counts import TokenCounts
from .tokenizer_compression import unreachable_ids


@dataclass(frozen=True)
class CompressionReport:
    """Attributes:
    tokens_before, tokens_after: size of the vocabulary.
    coverage: share of the counted tokens that are kept ones.
    tokens_per_word_before, tokens_per_word_after: on the texts of the report (words between white space).
    unreachable: kept pieces that no merge can build any more.
    parameters_before, parameters_after: of embedding and head of the model.
    """

    tokens_before: int
    tokens_after: int
    coverage: float
    tokens_per_word_before: float | None
    tokens_per_word_after: float | None
    unreachable: list[str]
    parameters_before: int | None
    parameters_after: int | None


def compression_report(
    tokenizer: PreTrainedTokenizerBase,
    compressed: PreTrainedTokenizerFast,
    id_map: IdMap,
    counts: TokenCounts,
    texts: Iterable[str] = (),
    config: PreTrainedConfig | None = None,
) -> CompressionReport:
    """Compare two tokenizers.

    Args:
        counts: what the compression was based on.
        texts: to measure tokens per word on; better others than those that were counted.
        config: of the model before its embeddings are compressed.
    """
    counts = TokenCounts.of(counts, id_map.old_size)
    texts = list(texts)
    words = sum(len(text.split()) for text in texts)
    before = after = None
    if words:
        before, after = (number_of_tokens(each, texts) / words for each in (tokenizer, compressed))
    rows_before = rows_after = None
    if config is not None:
        text_config = config.get_text_config()
        matrices = 1 if text_config.tie_word_embeddings else 2
        rows_before = text_config.vocab_size * text_config.hidden_size * matrices
        rows_after = len(id_map) * text_config.hidden_size * matrices
    return CompressionReport(
        tokens_before=len(tokenizer),
        tokens_after=len(compressed),
        coverage=kept_share(counts.counts, id_map.kept),
        tokens_per_word_before=before,
        tokens_per_word_after=after,
        unreachable=compressed.convert_ids_to_tokens(unreachable_ids(compressed)),
        parameters_before=rows_before,
        parameters_after=rows_after,
    )


def number_of_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> int:
    """Tokens of texts, without special tokens around them."""
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return sum(len(text.ids) for text in encoded)
