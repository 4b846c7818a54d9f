"""Documents packed into blocks of fixed length.

All documents stand in one row of tokens, each preceded by the token that begins a document; after the last comes the
token that ends one. Where a tokenizer has only one token for both (GPT-2's `<|endoftext|>`), that is

    E d₁ … E d₂ … E

and otherwise `B d₁ … E B d₂ … E`. Blocks of n tokens are cut from that row, each beginning with the last token of the
one before: the model predicts the tokens of a block but the first, and so each token of the row but the first exactly
once (never a B, which always follows an E).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ...losses.token_losses import IGNORED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Separators:
    """Tokens around documents: `end` after each; before each `begin`, which may be the same token."""

    begin: int
    end: int

    @classmethod
    def of(cls, tokenizer) -> "Separators":
        end = tokenizer.eos_token_id
        return cls(end if tokenizer.bos_token_id is None else tokenizer.bos_token_id, end)

    @property
    def are_one(self) -> bool:
        return self.begin == self.end


@dataclass(frozen=True)
class Encoder:
    """Texts to tokens with their separators: a document is `begin` and its tokens, and `end` unless that is the same
    token as the next document's `begin`."""

    tokenizer: object
    separators: Separators

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text; none at all for an empty one."""
        begin, end = [self.separators.begin], [] if self.separators.are_one else [self.separators.end]
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [begin + tokens + end if tokens else [] for tokens in encoded]

    @property
    def last(self) -> list[int]:
        """What follows the last document."""
        return [self.separators.end] if self.separators.are_one else []


@dataclass(frozen=True)
class Block:
    """A block as the model takes it.

    Args:
        size: tokens of a block.
        separate: whether positions begin anew at each document, from which transformers' attention masks see that
            documents are separate sequences.
    """

    size: int
    separators: Separators
    separate: bool

    def sample(self, tokens: np.ndarray) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels`, and `position_ids` of separate documents, each (size,); what `tokens` lacks is
        filled up without labels."""
        ids = np.full(self.size, self.separators.end, dtype=np.int64)
        ids[: len(tokens)] = tokens
        labels = ids.copy()
        labels[len(tokens) :] = IGNORED
        if not self.separators.are_one:
            labels[ids == self.separators.begin] = IGNORED
        sample = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        if self.separate:
            begins = ids == self.separators.begin
            begins[len(tokens) :] = False
            here = np.arange(self.size)
            sample["position_ids"] = torch.from_numpy(here - np.maximum.accumulate(np.where(begins, here, 0)))
        return sample


@dataclass(frozen=True)
class Counts:
    """What became of a text.

    Attributes:
        documents: those with text; empty_documents: those without, left out.
        bytes: of the text in UTF-8.
        tokens: of the row, with separators.
        blocks: sequences.
        dropped_tokens: at the end of the row, too few for a block.
    """

    documents: int
    empty_documents: int
    bytes: int
    tokens: int
    blocks: int
    dropped_tokens: int

    def log(self, what: str) -> None:
        values = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in asdict(self).items())
        logger.info("%s text: %s", what, values)


class PackedBlocks(Dataset):
    """Blocks by number, from tokens that lie in the (memory-mapped) table of a `datasets.Dataset`.

    Args:
        texts: a `datasets.Dataset` with a column `text`.
        encode: texts to tokens.
        block: the form of the samples.
        keep_tail: fill up the last block instead of dropping what is too short for one.
        num_workers: processes that tokenize.
        name: of the text, for messages.
        split: what a report calls the split that the texts are of.

    Raises:
        ValueError: no text, or too little for one block.
    """

    def __init__(
        self,
        texts,
        encode: Encoder,
        block: Block,
        *,
        keep_tail: bool = False,
        num_workers: int | None = None,
        name: str = "the text",
        split: str | None = None,
    ):
        self.split = split
        table = _tokenized(texts, encode, num_workers)
        self.pieces = _pieces(table) + [np.asarray(encode.last, dtype=np.int32)]
        self.starts = np.cumsum([0] + [len(piece) for piece in self.pieces])
        self.block = block
        lengths, sizes = np.asarray(table["length"]), np.asarray(table["bytes"])
        documents, total, step = int((lengths > 0).sum()), int(self.starts[-1]), block.size - 1
        if not documents:
            raise ValueError(f"--dataset: {name} is empty: {len(lengths)} documents, none with text.")
        full, rest = divmod(total - 1, step)
        self.length = full + (rest > 0 if keep_tail else 0)
        if not self.length:
            raise ValueError(
                f"--block_size: got {block.size}, but {name} has only {total} tokens, not enough for one block."
            )
        self.total = total
        self.counts = Counts(
            documents=documents,
            empty_documents=len(lengths) - documents,
            bytes=int(sizes.sum()),
            tokens=total,
            blocks=self.length,
            dropped_tokens=0 if keep_tail else rest,
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Block `number`, from 0."""
        if not 0 <= number < self.length:
            raise IndexError(f"block {number} of {self.length}")
        start = number * (self.block.size - 1)
        return self.block.sample(self.tokens(start, min(start + self.block.size, self.total)))

    def tokens(self, start: int, end: int) -> np.ndarray:
        """Tokens of the row from `start` to before `end`."""
        found, piece = [], int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < end:
            part = self.pieces[piece][start - self.starts[piece] : end - self.starts[piece]]
            found.append(part)
            start += len(part)
            piece += 1
        return np.concatenate(found) if len(found) > 1 else found[0]


def _tokenized(texts, encode: Callable, num_workers: int | None):
    """The texts' tokens as a table of their own, cached where the texts are."""
    import datasets

    columns = {"input_ids": datasets.List(datasets.Value("int32"))}
    columns |= {"length": datasets.Value("int64"), "bytes": datasets.Value("int64")}
    return texts.map(
        _tokenize,
        batched=True,
        fn_kwargs={"encode": encode},
        remove_columns=texts.column_names,
        features=datasets.Features(columns),
        num_proc=num_workers,
        desc="tokenizing",
    )


def _tokenize(batch: dict[str, list], encode: Callable) -> dict[str, list]:
    texts = [text or "" for text in batch["text"]]
    tokens = encode(texts)
    return {
        "input_ids": tokens,
        "length": [len(ids) for ids in tokens],
        "bytes": [len(text.encode("utf-8", "surrogatepass")) for text in texts],
    }


def _pieces(table) -> list[np.ndarray]:
    """The tokens of all documents, as long arrays that lie in the table's own memory."""
    pieces = []
    for chunk in table.data.column("input_ids").chunks:
        first, last = chunk.offsets[0].as_py(), chunk.offsets[-1].as_py()
        if last > first:
            pieces.append(chunk.values.to_numpy(zero_copy_only=True)[first:last])
    return pieces
