"""What a counting process does with a batch of texts. Imports little: it is imported in each process anew."""

import os

import numpy as np
from tokenizers import Tokenizer

_PROCESS = {}


def start(backend: str, vocab_size: int, is_worker: bool) -> None:
    """Prepare this process.

    Args:
        backend: the tokenizer as the tokenizers library's JSON.
        is_worker: one of several processes, which are the parallelism: the tokenizer uses one thread.
    """
    if is_worker:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_str(backend)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _PROCESS.update(tokenizer=tokenizer, vocab_size=vocab_size)


def count(texts: list) -> tuple[np.ndarray, list[int], int, int]:
    """Counts by id, ids in the order first seen, words, texts; of texts or lists of token ids.

    Raises:
        ValueError: an id beyond the vocabulary.
    """
    tokenizer, vocab_size = _PROCESS["tokenizer"], _PROCESS["vocab_size"]
    strings = [text for text in texts if isinstance(text, str)]
    encoded = iter(tokenizer.encode_batch_fast(strings, add_special_tokens=False))
    ids = [next(encoded).ids if isinstance(text, str) else text for text in texts]
    flat = np.fromiter((token for sample in ids for token in sample), np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < vocab_size:
        wrong = int(flat.min() if flat.min() < 0 else flat.max())
        raise ValueError(f"dataset: got the token id {wrong}, the tokenizer has 0 to {vocab_size - 1}.")
    unique, first = np.unique(flat, return_index=True)
    words = sum(len(text.split()) for text in strings)
    return np.bincount(flat, minlength=vocab_size), unique[np.argsort(first)].tolist(), words, len(texts)
