"""The tokenizer of a run: loaded, or trained on the training text."""

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

#: The one special token of a trained tokenizer: between documents, and before the first.
END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(name: str, eos_token: str | None = None, **source) -> PreTrainedTokenizerBase:
    """A tokenizer with a token that ends a document.

    Args:
        name: on the Hub, or a folder.
        eos_token: the token to take for that, where the tokenizer names none.
        source: `revision`, `token`, `trust_remote_code`.

    Raises:
        ValueError: no such token. OSError: a tokenizer that cannot be found or reached.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
    except (OSError, ValueError) as error:
        raise OSError(f"--tokenizer: {name!r} cannot be found or read. {error}") from error
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise ValueError(f"--eos_token: {eos_token!r} is no token of {name}.")
        tokenizer.eos_token = eos_token
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"--tokenizer: {name} has no token that ends a document (eos_token); name one of its tokens with "
            "--eos_token."
        )
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's: every text can be written, and nothing is lost.

    Args:
        texts: what it learns from.
        vocab_size: number of tokens, of which 256 are the bytes and one is `END_OF_TEXT`.
        max_length: longest sequence of the model, for the tokenizer's own record.

    Raises:
        ValueError: the texts have too few different pieces for `vocab_size`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() < vocab_size:
        raise ValueError(
            f"--tokenizer: the training text gives a vocabulary of {backend.get_vocab_size()} tokens at most, not "
            f"{vocab_size}."
        )
    return wrap_tokenizer(backend, max_length)


def wrap_tokenizer(backend, max_length: int) -> PreTrainedTokenizerFast:
    """A `tokenizers.Tokenizer` that `train_tokenizer` has made, as transformers takes it.

    No token is for padding alone, and none has two duties: an embedding is not trained at the padding token.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()
