"""How often each token occurs in a corpus: counted by several processes, continued after a kill."""

import hashlib
import json
import zlib
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..._files import write_json
from ...training.data.fingerprints import fingerprint
from . import count_batch


@dataclass
class TokenCounts:
    """Token frequencies of a corpus.

    Attributes:
        counts: (vocabulary,) int64, how often each token id occurs.
        first_seen: the ids that occur, in the order in which the corpus brings them; it breaks ties between counts.
        words: number of words between white space, 0 where the corpus was given as token ids.
        samples: number of texts.
        tokenizer: `tokenizer_fingerprint` of the one that was counted with, None where that is not known.
    """

    counts: np.ndarray
    first_seen: list[int] = field(default_factory=list)
    words: int = 0
    samples: int = 0
    tokenizer: str | None = None

    @classmethod
    def of(cls, counts: "TokenCounts | Mapping[int, int] | Sequence[int]", vocab_size: int) -> "TokenCounts":
        """Counts in any form: an object of this class, `{id: count}` (in the order first seen) or a sequence by id.

        Raises:
            ValueError: no token at all, a negative count, or an id beyond the vocabulary.
        """
        if isinstance(counts, Mapping):
            ids = [int(token) for token in counts]
            values = np.zeros(max(ids, default=-1) + 1, np.int64)
            values[ids] = list(counts.values())
            counts = cls(values, [token for token in ids if values[token] > 0])
        elif not isinstance(counts, TokenCounts):
            counts = cls(np.asarray(counts, dtype=np.int64))
        if counts.counts.size > vocab_size and counts.counts[vocab_size:].any():
            largest = int(np.flatnonzero(counts.counts)[-1])
            raise ValueError(f"counts: token id {largest} is counted, the tokenizer's ids end at {vocab_size - 1}.")
        if (counts.counts < 0).any():
            raise ValueError(f"counts: got {int(counts.counts.min())}, accepted are whole numbers from 0.")
        if not counts.counts.any():
            raise ValueError("counts: the corpus has no token: it is empty.")
        values = np.zeros(vocab_size, np.int64)
        size = min(vocab_size, counts.counts.size)
        values[:size] = counts.counts[:size]
        return cls(values, list(counts.first_seen), counts.words, counts.samples, counts.tokenizer)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def add(self, other: "TokenCounts") -> None:
        """Add the counts of what comes after this one's corpus.

        Raises:
            ValueError: they are of another tokenizer.
        """
        if self.counts.size != other.counts.size:
            raise ValueError(f"counts: they are of {other.counts.size} and of {self.counts.size} tokens.")
        if None not in (self.tokenizer, other.tokenizer) and self.tokenizer != other.tokenizer:
            raise ValueError("counts: they are of different tokenizers.")
        self.counts += other.counts
        seen = set(self.first_seen)
        self.first_seen += [token for token in other.first_seen if token not in seen]
        self.words += other.words
        self.samples += other.samples

    def ranking(self) -> np.ndarray:
        """All ids, the most frequent first; equal counts in the order first seen, unseen ids last and ascending."""
        seen = np.zeros(self.counts.size, bool)
        seen[self.first_seen] = True
        table = np.concatenate([np.asarray(self.first_seen, np.int64), np.flatnonzero(~seen)])
        return table[np.argsort(-self.counts[table], kind="stable")]

    def save(self, file: str | Path) -> None:
        """Write a JSON file that `load` and `count_tokens` read."""
        _write(Path(file), {"complete": True, **_as_json(self)})

    @classmethod
    def load(cls, file: str | Path) -> "TokenCounts":
        """Read what `save` or `count_tokens` wrote.

        Raises:
            ValueError: the file is something else, or its counting is not finished.
        """
        state = _read(Path(file))
        if not state["complete"]:
            raise ValueError(f"{file}: {state['samples']} texts are counted, the rest of the corpus is not.")
        return _from_json(state)


def count_tokens(
    tokenizer: PreTrainedTokenizerBase,
    dataset: Iterable,
    *,
    column: str = "text",
    num_proc: int | None = None,
    state_file: str | Path | None = None,
    batch_size: int = 1000,
    batches_per_save: int = 50,
    max_samples: int | None = None,
    progress: bool = True,
) -> TokenCounts:
    """Count the tokens of a corpus, without special tokens around the texts.

    Args:
        tokenizer: a fast tokenizer.
        dataset: a `datasets` data set, map-style or streaming, or any sequence or iterable of texts or of mappings.
        column: of the texts; it may hold lists of token ids instead.
        num_proc: processes beside this one; None counts here (the tokenizer uses several threads by itself).
        state_file: JSON file written every `batches_per_save` batches, with which a later call of the same arguments
            goes on; a finished one is not counted again.
        batch_size: texts per unit of work.
        max_samples: count the first so many.
        progress: show a bar.

    Raises:
        ValueError: an empty corpus, a missing column, ids beyond the vocabulary, or the state of another tokenizer.
    """
    _check(tokenizer, num_proc, batch_size, max_samples)
    vocab_size = max(tokenizer.get_vocab().values()) + 1
    backend = tokenizer.backend_tokenizer.to_str()
    known_by = tokenizer_fingerprint(tokenizer)
    what = {"tokenizer": known_by, "column": column, "max_samples": max_samples, "dataset": _known_by(dataset)}
    file = None if state_file is None else Path(state_file)
    counts, position = TokenCounts(np.zeros(vocab_size, np.int64), tokenizer=known_by), None
    if file is not None and file.exists():
        state = _read(file)
        for name, value in what.items():
            if state.get(name, value) != value:
                raise ValueError(f"state_file: {file} was counted with another {name}; choose another file.")
        counts, position = _from_json(state), state.get("position")
        if state["complete"]:
            return counts
    texts = _Texts(dataset, column, batch_size, max_samples)
    bar = tqdm(total=texts.length, initial=counts.samples, unit=" texts", disable=not progress, desc="counting tokens")
    with bar:
        batches = _counted(texts.batches(counts.samples, position), backend, vocab_size, num_proc)
        for number, (part, after) in enumerate(batches, start=1):
            counts.add(part)
            bar.update(part.samples)
            if file is not None and number % batches_per_save == 0:
                _write(file, {"complete": False, **what, "position": after, **_as_json(counts)})
    if not counts.total:
        raise ValueError(f"dataset: got {counts.samples} texts without a token in column {column!r}: it is empty.")
    if file is not None:
        _write(file, {"complete": True, **what, **_as_json(counts)})
    return counts


def _check(tokenizer, num_proc: int | None, batch_size: int, max_samples: int | None) -> None:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(f"tokenizer: got {type(tokenizer).__name__}, accepted are fast tokenizers.")
    for name, value in (("num_proc", num_proc), ("batch_size", batch_size), ("max_samples", max_samples)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, accepted are whole numbers from 1.")


class _Texts:
    """Batches of a data set, from any position on."""

    def __init__(self, dataset: Iterable, column: str, batch_size: int, max_samples: int | None):
        self.dataset, self.column, self.batch_size, self.most = dataset, column, batch_size, max_samples
        names = getattr(dataset, "column_names", None)
        if isinstance(names, Sequence) and column not in names:
            raise ValueError(f"column: got {column!r}, the data set has {', '.join(map(repr, names))}.")
        if isinstance(names, Sequence) and len(names) > 1:
            self.dataset = dataset.select_columns(column)  # the others need not be read
        self.length = len(dataset) if hasattr(dataset, "__len__") else None
        if self.length is not None and max_samples is not None:
            self.length = min(self.length, max_samples)
        if self.length == 0:
            raise ValueError("dataset: it has no texts: it is empty.")

    def batches(self, done: int, position: dict | None) -> Iterator[tuple[list, dict | None]]:
        """Batches after the first `done` texts, each with the position of the data set after it (streaming only)."""
        dataset, has_state = self.dataset, hasattr(self.dataset, "state_dict")
        if has_state and position is not None:
            dataset.load_state_dict(position)
        elif done:
            dataset = self._after(done)
        batch = []
        for sample in dataset:
            if self.most is not None and done >= self.most:
                break
            batch.append(self._content(sample, done))
            done += 1
            if len(batch) == self.batch_size:
                yield batch, dataset.state_dict() if has_state else None
                batch = []
        if batch:
            yield batch, dataset.state_dict() if has_state else None

    def _after(self, done: int) -> Iterable:
        if hasattr(self.dataset, "select"):
            return self.dataset.select(range(done, len(self.dataset)))
        if hasattr(self.dataset, "skip"):
            return self.dataset.skip(done)
        return (sample for number, sample in enumerate(self.dataset) if number >= done)

    def _content(self, sample, number: int) -> str | list[int]:
        content = sample
        if isinstance(sample, Mapping):
            if self.column not in sample:
                raise ValueError(f"column: got {self.column!r}, sample {number} has {', '.join(map(repr, sample))}.")
            content = sample[self.column]
        if isinstance(content, str):
            return content
        with suppress(ValueError):  # of lists of several lengths
            ids = np.asarray(content)
            if ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size):
                return ids.tolist()
        raise ValueError(
            f"column: sample {number} of {self.column!r} is {type(content).__name__}, accepted are texts and lists of "
            "token ids."
        )


def _counted(batches: Iterator, backend: str, vocab_size: int, num_proc: int | None) -> Iterator:
    """(counts, position) of each batch, in order."""
    if num_proc is None:
        count_batch.start(backend, vocab_size, False)
        for texts, position in batches:
            yield TokenCounts(*count_batch.count(texts)), position
        return
    pending = deque()
    # Spawned, not forked: the tokenizer's threads do not survive a fork.
    with ProcessPoolExecutor(num_proc, get_context("spawn"), count_batch.start, (backend, vocab_size, True)) as pool:
        try:
            for texts, position in batches:
                pending.append((pool.submit(count_batch.count, texts), position))
                if len(pending) > 2 * num_proc:
                    future, where = pending.popleft()
                    yield TokenCounts(*future.result()), where
            while pending:
                future, where = pending.popleft()
                yield TokenCounts(*future.result()), where
        finally:
            for future, _ in pending:
                future.cancel()


# The state file


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hexadecimal digits of what a fast tokenizer makes of a text: neither truncation nor what is put around it."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {name: content.get(name) for name in ("model", "normalizer", "pre_tokenizer")}
    parts["added_tokens"] = sorted((token["id"], token["content"]) for token in content["added_tokens"])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _known_by(dataset: Iterable) -> str | None:
    """The fingerprint of a table of `datasets` or of a sequence; None for what can only be read from its beginning."""
    known = getattr(dataset, "_fingerprint", None)
    return fingerprint(dataset) if known is None and isinstance(dataset, Sequence) else known


def _as_json(counts: TokenCounts) -> dict:
    packed = b64encode(zlib.compress(counts.counts.astype("<i8").tobytes())).decode()
    return {
        "tokenizer": counts.tokenizer,
        "samples": counts.samples,
        "words": counts.words,
        "tokens": counts.total,
        "first_seen": counts.first_seen,
        "counts_int64_zlib_base64": packed,
    }


def _from_json(state: dict) -> TokenCounts:
    values = np.frombuffer(zlib.decompress(b64decode(state["counts_int64_zlib_base64"])), "<i8").astype(np.int64)
    return TokenCounts(values, list(state["first_seen"]), state["words"], state["samples"], state.get("tokenizer"))


def _read(file: Path) -> dict:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        state["complete"]
        counts = _from_json(state)
        if not all(0 <= token < counts.counts.size for token in counts.first_seen):
            raise ValueError("a token that is seen has no count")
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"{file}: these are not the counts that count_tokens writes ({error}).") from None
    return state


def _write(file: Path, state: dict) -> None:
    write_json(file, state, indent=None)
