"""Documents from anywhere `datasets` reads: which column, which are held out, what is wrong with them."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..splits import (
    EVAL_FRACTION,
    HELD_OUT,
    check_built_in,
    evaluation_split,
    load_splits,
    number_held_out,
    only_split,
    pick_split,
)
from .arguments import TextArguments

logger = logging.getLogger(__name__)

#: The texts of Python's help on its language (`help("while")`), which come with every Python.
PYDOC_TOPICS = "pydoc_topics"

_FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def load_texts(args: TextArguments, token: str | None = None) -> tuple[Any, Any]:
    """The training and the evaluation documents.

    Returns:
        Two `datasets.Dataset` with a column `text`; with `--streaming` the first is a `datasets.IterableDataset`.

    Raises:
        ValueError: missing splits or columns (with those there are), nothing to train on or to evaluate with.
        OSError: a data set that cannot be found or reached.
    """
    splits = _load_splits(args, token)
    train = _text_only(pick_split(splits, "--train_split", args.train_split), args)
    if args.eval_dataset is not None:
        evaluation = load_evaluation_texts(args, token)
    elif (name := evaluation_split(args, list(splits))) is not None:
        evaluation = _limited(_text_only(splits[name], args), args.eval_documents)
    else:
        train, evaluation = _hold_out(train, args)
    train = _limited(train, args.max_train_documents)
    return train, _limited(evaluation, args.max_eval_documents)


def load_evaluation_texts(args: TextArguments, token: str | None = None):
    """The documents `load_texts` would evaluate on; of a data set with one split all of it, unless the arguments hold
    some out."""
    if args.eval_dataset is not None:
        args = args.of_eval_dataset()
    splits = _load_splits(args, token)
    names = list(splits)
    # Of a stream without a split to evaluate on it is the first documents, as many as are named, that are held out.
    is_first = args.eval_documents is not None and evaluation_split(args, names) is None
    name = None if is_first else evaluation_split(args, names, alone=True)
    if name is None:
        train = _text_only(pick_split(splits, "--train_split", args.train_split), args)
        return _limited(_hold_out(train, args)[1], args.max_eval_documents)
    return _limited(_limited(_text_only(splits[name], args), args.eval_documents), args.max_eval_documents)


def load_text_split(args: TextArguments, name: str | None, token: str | None = None) -> tuple[str, Any]:
    """Name and documents of the split of this name, or of the only one; `load_texts` says what else is raised.

    Raises:
        ValueError: there is no such split, or there are several and none is named.
    """
    splits = _load_splits(args, token)
    name = only_split(splits, "--split", name)
    return name, _text_only(splits[name], args)


def evaluated_split(args: TextArguments, texts) -> str:
    """What a report calls the documents that `load_texts` has given to evaluate on."""
    split = args.train_split if texts.split is None else str(texts.split)
    is_whole = args.eval_split is not None or args.eval_dataset is not None or split != args.train_split
    return split if is_whole else f"{split}{HELD_OUT}"


def read(texts, limit: int | None = None) -> Iterator[str]:
    """The documents (or the first `limit`) as texts; a missing one (None) is empty."""
    for number, row in enumerate(texts):
        if limit is not None and number >= limit:
            return
        yield row["text"] or ""


def _load_splits(args: TextArguments, token: str | None) -> dict:
    if args.dataset == PYDOC_TOPICS:
        check_built_in(args)
        from pydoc_data.topics import topics

        import datasets

        texts = datasets.Dataset.from_dict({"text": [topics[name] for name in sorted(topics)]})
        return {"train": texts.to_iterable_dataset() if args.streaming else texts}
    name, options = args.dataset, {}
    data_files = args.data_files
    if Path(name).suffix.lower() in _FORMATS and data_files is None:
        if not os.path.isfile(name):
            raise OSError(f"{args.argument}: there is no file {name!r}.")
        name, data_files = _FORMATS[Path(name).suffix.lower()], name
    if name == "text" or _is_text_folder(Path(name)):
        options["sample_by"] = args.text_unit
    return load_splits(args, token, name=name, data_files=data_files, streaming=args.streaming, **options)


def _is_text_folder(folder: Path) -> bool:
    found = False
    for _, _, files in os.walk(folder):  # up to the first other file: the folder may be anything
        if any(not name.lower().endswith(".txt") for name in files):
            return False
        found = found or bool(files)
    return found


def _text_only(rows, args: TextArguments):
    """Only the column with the text, under the name `text`."""
    first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{args.argument}: {args.dataset} holds no documents.")
    column = _text_column(first, rows.features, args.text_column)
    rows = rows.select_columns(column)
    return rows if column == "text" else rows.rename_column(column, "text")


def _text_column(first: dict, features, asked_for: str | None) -> str:
    if features:
        texts = [name for name, feature in features.items() if getattr(feature, "dtype", None) in _TEXT_TYPES]
    else:
        texts = [name for name, value in first.items() if isinstance(value, str)]
    if asked_for is not None:
        if asked_for not in first:
            raise ValueError(f"--text_column: there is no {asked_for!r}, the columns are {', '.join(first)}.")
        if asked_for not in texts:
            raise ValueError(f"--text_column: {asked_for!r} holds no texts; those are {', '.join(texts) or 'none'}.")
        return asked_for
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        found = f"could be any of {', '.join(texts)}" if texts else "is none"
        raise ValueError(f"--text_column: it {found}; the columns are {', '.join(first)}.")
    return texts[0]


_TEXT_TYPES = ("string", "large_string", "string_view")


def _limited(rows, count: int | None):
    return rows if count is None else rows.take(count)


def _hold_out(train, args: TextArguments) -> tuple[Any, Any]:
    if args.streaming:
        number = args.eval_documents or args.eval_holdout
        if number is None:
            raise ValueError("--eval_documents: say how many documents of the stream are held out for the evaluation.")
        return train.skip(number), train.take(number)
    if len(train) == 1 and args.eval_holdout is None:
        return _cut(train[0]["text"] or "", args.eval_fraction or EVAL_FRACTION, args.dataset)
    number = number_held_out(args, len(train), f"{args.dataset}/{args.train_split}")
    # Evenly spread: neighbouring documents are often of one kind.
    held_out = {(2 * i + 1) * len(train) // (2 * number) for i in range(number)}
    return train.select([i for i in range(len(train)) if i not in held_out]), train.select(sorted(held_out))


def _cut(text: str, fraction: float, name: str) -> tuple[Any, Any]:
    """The only document, cut at the beginning of a line."""
    import datasets

    where = text.find("\n", int(len(text) * (1 - fraction))) + 1
    if not where or not text[where:].strip():
        raise ValueError(
            f"--dataset: the only document of {name} has no line in its last {fraction:.0%}, where the held-out part "
            "begins."
        )
    logger.info("evaluating on the last %d of the %d characters of %s", len(text) - where, len(text), name)
    return tuple(datasets.Dataset.from_dict({"text": [part]}) for part in (text[:where], text[where:]))
