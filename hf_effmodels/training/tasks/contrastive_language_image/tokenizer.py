"""A tokenizer of CLIP's kind, trained on a data set's captions."""

import json
from collections.abc import Iterable

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer

#: End of a word in the names of tokens.
_END = "</w>"
#: The bytes, each within a word and at its end, and the two marks.
SMALLEST = 2 * 256 + 2


def train_tokenizer(captions: Iterable[str], size: int) -> CLIPTokenizer:
    """A byte-level BPE with CLIP's rules and marks and `size` tokens at most; it has a token for every byte.

    Raises:
        ValueError: a size that does not hold the bytes.
    """
    if size < SMALLEST:
        raise ValueError(f"--tokenizer: got train:{size}, accepted are sizes from {SMALLEST}, which hold all bytes.")
    empty = CLIPTokenizer()
    backend = empty.backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - SMALLEST // 2 + 1,  # the ends of words that occur are among them
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=_END,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    learned = json.loads(backend.to_str())["model"]
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in learned["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*letters, *(f"{letter}{_END}" for letter in letters)])
    kept = []
    for merge in merges:
        merged = "".join(merge)
        if merged not in tokens and len(tokens) == size - 2:
            break
        tokens[merged] = None
        kept.append(merge)
    tokens |= dict.fromkeys([empty.bos_token, empty.eos_token])
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=kept)
