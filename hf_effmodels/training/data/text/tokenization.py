"""The tokenizer of a run: loaded, or trained on the training text."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ....hub.ids import reading

#: The one special token of a language model's trained tokenizer: between documents, and before the first.
END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(
    name: str, eos_token: str | None = None, *, argument: str = "--tokenizer", **source
) -> PreTrainedTokenizerBase:
    """A tokenizer with a token that ends a document.

    Args:
        name: on the Hub, or a folder.
        eos_token: the token to take for that, where the tokenizer names none.
        argument: how the user has named it.
        source: `revision`, `token`, `trust_remote_code`.

    Raises:
        ValueError: no such token. OSError: a tokenizer that cannot be found or reached.
    """
    with reading(argument, name):
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
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


def train_tokenizer(
    texts: Iterable[str] | Callable[[], Iterable[str]],
    vocab_size: int,
    max_length: int | None = None,
    *,
    special_tokens: Mapping[str, str] = MappingProxyType({"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}),
    at_most: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's: every text can be written, and nothing is lost.

    Letters, digits and punctuation never share a token. The main process trains it, and all others get it to the last
    merge. By default no token is for padding alone, and none has two duties: an embedding is not trained at the
    padding token.

    Args:
        texts: what it learns from, or what gives it, which is then called in the main process only.
        vocab_size: number of tokens, of which 256 are the bytes.
        max_length: longest sequence of the model, for the tokenizer's own record.
        special_tokens: duty -> token, as transformers names them; they are the first tokens, in this order.
        at_most: `vocab_size` may be larger than what the texts give.

    Raises:
        ValueError: the texts have too few different pieces for `vocab_size`.
    """
    from tokenizers import Tokenizer

    process, content = PartialState(), [None]
    if process.is_main_process:
        try:
            texts = texts() if callable(texts) else texts
            content[0] = _trained(texts, vocab_size, [*dict.fromkeys(special_tokens.values())], at_most).to_str()
        except (ValueError, OSError) as error:  # all processes end with it, none waits for the others
            content[0] = error
    broadcast_object_list(content)
    if isinstance(content[0], Exception):
        raise content[0]
    options = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(content[0]),
        **special_tokens,
        **options,
        clean_up_tokenization_spaces=False,
    )


def _trained(texts: Iterable[str], vocab_size: int, special_tokens: list[str], at_most: bool):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() < vocab_size and not at_most:
        raise ValueError(
            f"--tokenizer: the training text gives a vocabulary of {backend.get_vocab_size()} tokens at most, not "
            f"{vocab_size}."
        )
    return backend


def has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()
