"""Text for exported language models: on it a program is compared with PyTorch, token by token."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F

#: What is looked at: so many rows of so many tokens at most, so many tokens at least.
ROWS, LENGTH, FEWEST = 16, 128, 64
#: What is continued by the likeliest tokens: so many rows, their first tokens, and so many more.
_CONTINUED, _BEGINNING, _MORE = 4, 16, 16
#: More documents than that are not read: the rows are full long before.
_DOCUMENTS = 10_000


@dataclass(frozen=True)
class Text:
    """What a program is compared on.

    Attributes:
        name: of the text, for the report.
        rows: ids of tokens, (1, tokens) each, of one text after the other.
    """

    name: str
    rows: Sequence[torch.Tensor]


@dataclass(frozen=True)
class Comparison:
    """What a program says of a text, beside what PyTorch says.

    Attributes:
        tokens: those that were to be foreseen.
        perplexity, perplexity_in_pytorch: of them.
        agreement: the share of places whose likeliest next token is the same.
        continued: the share of tokens before the first other one where both go on by the likeliest with what they have
            kept; of 16, mean of 4 beginnings.
    """

    tokens: int
    perplexity: float
    perplexity_in_pytorch: float
    agreement: float
    continued: float


def read_text(source: str | Path | Iterable[str] | None, tokenizer, longest: int | None) -> Text:
    """The rows of a text.

    Args:
        source: texts, or what `--dataset` of the recipes for language models takes (a file, a folder, an id of the
            Hub, pydoc_topics), of which what is there to evaluate on is read; None for Python's own help, which is
            English.
        tokenizer: of the model.
        longest: tokens that the model can read at most; None for any number.

    Raises:
        ValueError: no text, or too little. OSError: it cannot be found or read. ImportError: without the library
            datasets, for other texts than one's own and Python's.
    """
    if tokenizer is None:
        raise ValueError("tokenizer: got None, but what is read of a text are its tokens.")
    length = min(LENGTH, longest or LENGTH)
    name, texts = _texts(source)
    ids: list[int] = []
    for text in islice(texts, _DOCUMENTS):
        ids += tokenizer(text, verbose=False)["input_ids"] if text else []
        if len(ids) >= ROWS * length:
            break
    if len(ids) < FEWEST:
        raise ValueError(f"calibration: {name} has {len(ids)} tokens, accepted are {FEWEST} or more.")
    rows = torch.tensor(ids[: ROWS * length]).split(length)
    return Text(name, [row[None] for row in rows if len(row) > 1])


def _texts(source) -> tuple[str, Iterable[str]]:
    if source is None:
        from pydoc_data.topics import topics

        return "Python's help", (topics[name] for name in sorted(topics))
    if not isinstance(source, str | Path):
        return "the text", source
    try:
        from .training.data.text.arguments import TextArguments
        from .training.data.text.documents import load_evaluation_texts, read

        return str(source), read(load_evaluation_texts(TextArguments(dataset=str(source))))
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}. --calibrate needs an extra: pip install 'hf_effmodels[train]'.") from error
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix("--dataset is missing: ").removeprefix("--dataset: ")
        if reason.startswith("--"):  # an option of the recipes, which nobody who exports can give
            reason = (
                f"{str(source)!r} needs more than its name ({reason.lstrip('-').rstrip('.')}); a text file does not."
            )
        raise (ValueError if isinstance(error, ValueError) else OSError)(f"calibration: {reason}") from error


@torch.no_grad()
def compare(model, program, text: Text) -> Comparison:
    """A program beside the model that it was made of, in float32.

    Raises:
        ValueError: the program's logits are no numbers.
    """
    losses, same, tokens = [0.0, 0.0], 0, 0
    for row in text.rows:
        logits = [one(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, :-1].float() for one in
                  (program, model)]  # fmt: skip
        if not logits[0].isfinite().all():
            raise ValueError(f"the exported program's logits of {text.name} are not finite; nothing was written.")
        for number, own in enumerate(logits):
            losses[number] += F.cross_entropy(own.double(), row[0, 1:], reduction="sum").item()
        same += int((logits[0].argmax(-1) == logits[1].argmax(-1)).sum())
        tokens += row.shape[1] - 1
    own, in_pytorch = (math.exp(min(loss / tokens, 700)) for loss in losses)
    return Comparison(tokens, own, in_pytorch, same / tokens, _continued(model, program, text))


def _continued(model, program, text: Text) -> float:
    kept = []
    for row in text.rows[:_CONTINUED]:
        beginning = row[:, : min(_BEGINNING, row.shape[1] // 2)]
        more = min(_MORE, row.shape[1] - beginning.shape[1])
        ours, theirs = (
            one.generate(
                input_ids=beginning,
                attention_mask=torch.ones_like(beginning),
                max_new_tokens=more,
                min_new_tokens=more,
                do_sample=False,
                num_beams=1,
                pad_token_id=0,
            )[0, beginning.shape[1] :]
            for one in (program, model)
        )
        kept.append((ours == theirs).long().cumprod(0).double().mean().item())
    return sum(kept) / len(kept)
