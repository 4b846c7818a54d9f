"""Tokenised data for a compressed tokenizer, without the texts."""

from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...training.losses.token_losses import IGNORED
from .id_map import IdMap
from .tokenizer_compression import Vocabulary


def expansions(
    tokenizer: PreTrainedTokenizerBase, compressed: PreTrainedTokenizerFast, id_map: IdMap
) -> list[list[int]]:
    """New ids for each old id: one for a piece that is kept; else those of the kept pieces it is spelt with.

    The spelling is what the new model makes of the piece alone, so that a sequence decodes to the same text. It may
    differ from what the new tokenizer makes of that text as a whole.

    Raises:
        ValueError: the tokenizers and the map do not belong together.
    """
    vocabulary = Vocabulary(tokenizer)
    new_ids = id_map.new_ids()
    if vocabulary.size != id_map.old_size or len(compressed) != len(id_map):
        raise ValueError(
            f"id_map: it leads from {id_map.old_size} to {len(id_map)} tokens, the tokenizers have {vocabulary.size} "
            f"and {len(compressed)}."
        )
    model = compressed.backend_tokenizer.model
    table: list[list[int]] = []
    for old in range(vocabulary.size):
        if new_ids[old] >= 0:
            table.append([int(new_ids[old])])
        elif old not in vocabulary.pieces:
            table.append([])
        elif vocabulary.kind == "WordPiece":
            table.append(_spell_word_piece(vocabulary.pieces[old], vocabulary.prefix, compressed))
        else:
            table.append([token.id for token in model.tokenize(vocabulary.pieces[old])])
    return table


def _spell_word_piece(piece: str, prefix: str, compressed: PreTrainedTokenizerFast) -> list[int]:
    """Longest match first, as WordPiece does, also for a piece that continues a word."""
    vocab, ids = compressed.get_vocab(), []
    mark = prefix if piece.startswith(prefix) else ""
    rest = piece.removeprefix(mark)
    while rest:
        size = next((n for n in range(len(rest), 0, -1) if mark + rest[:n] in vocab), 0)
        if not size:
            return [compressed.unk_token_id]
        ids.append(vocab[mark + rest[:size]])
        mark, rest = prefix, rest[size:]
    return ids


def remap_dataset(
    dataset,
    id_map: IdMap,
    tokenizer: PreTrainedTokenizerBase,
    compressed: PreTrainedTokenizerFast,
    columns: Sequence[str] = ("input_ids", "labels"),
    num_proc: int | None = None,
):
    """A tokenised data set in the ids of the compressed tokenizer.

    Args:
        dataset: of `datasets`, map-style or streaming, with lists of token ids. Sequences with dropped pieces get
            longer; pack them to a fixed length afterwards.
        columns: those with token ids, as far as they exist; -100 stays -100. `attention_mask` and `token_type_ids`
            follow the first one.
        num_proc: processes, of a map-style data set.

    Raises:
        ValueError: the tokenizers and the map do not belong together, none of the columns is there, or an id beyond
            the old vocabulary.
    """
    table = expansions(tokenizer, compressed, id_map)
    names = getattr(dataset, "column_names", None)
    present = [name for name in columns if names is None or name in names]
    if not present:
        raise ValueError(f"columns: got {', '.join(columns)}, the data set has {', '.join(names)}.")
    change = _Change(table, present)
    if hasattr(dataset, "select"):
        return dataset.map(change, batched=True, num_proc=num_proc, desc="new token ids")
    return dataset.map(change, batched=True)


class _Change:
    def __init__(self, table: list[list[int]], columns: Sequence[str]):
        self.columns = columns
        self.lengths = np.array([len(new) for new in table], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.flat = np.array([number for new in table for number in new], np.int64)

    def __call__(self, batch: Mapping[str, list]) -> dict[str, list]:
        columns = [name for name in self.columns if name in batch]
        lengths = [self._lengths(np.asarray(ids, np.int64)) for ids in batch[columns[0]]]
        changed = {}
        for name in columns:
            changed[name] = [
                self._expand(np.asarray(ids, np.int64), size, name)
                for ids, size in zip(batch[name], lengths, strict=True)
            ]
        for name in ("attention_mask", "token_type_ids"):
            if name in batch:
                changed[name] = [
                    np.repeat(values, size).tolist() for values, size in zip(batch[name], lengths, strict=True)
                ]
        return changed

    def _lengths(self, ids: np.ndarray) -> np.ndarray:
        ignored = ids == IGNORED
        if ids.size and not ((ids >= 0) & (ids < len(self.lengths)) | ignored).all():
            raise ValueError(
                f"dataset: token ids {ids.min()} to {ids.max()}, accepted are 0 to {len(self.lengths) - 1}."
            )
        return np.where(ignored, 1, self.lengths[np.where(ignored, 0, ids)])

    def _expand(self, ids: np.ndarray, lengths: np.ndarray, name: str) -> list[int]:
        if len(ids) != len(lengths):
            raise ValueError(f"dataset: {name} has {len(ids)} ids where the first column has {len(lengths)}.")
        ignored = ids == IGNORED
        own = self._lengths(ids)
        if not (own == lengths)[~ignored].all():
            raise ValueError(f"dataset: {name} is another text than the first column, accepted is the same or -100.")
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        starts = np.repeat(self.starts[np.where(ignored, 0, ids)], lengths)
        new = self.flat[np.minimum(starts + within, len(self.flat) - 1)]
        return np.where(np.repeat(ignored, lengths), IGNORED, new).tolist()
