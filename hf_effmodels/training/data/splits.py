"""Data sets as `datasets` reads them, for every task: their splits, their columns, and what is wrong in one line."""

import logging
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..._places import check_place, first_line, is_reader, no_data_set
from .stored_names import check_stored_names, stores_names

logger = logging.getLogger(__name__)

#: Splits to evaluate on where none is named, the first there is.
EVAL_SPLITS = ("validation", "valid", "val", "test")
#: The share of a training split that is held out where nobody says how much, and what its name then ends with.
EVAL_FRACTION, HELD_OUT = 0.1, " (held out)"


def load_splits(args, token: str | None, *, name: str | None = None, data_files=None, known=(), **options) -> dict:
    """Split -> table of a data set on the Hub, in a folder or in files.

    Args:
        args: with the fields `dataset`, `dataset_config`, `dataset_revision`, `data_files`, `data_dir`, `cache_dir`.
        token: for gated or private data sets.
        name, data_files: what to load in the place of `args.dataset` and `args.data_files`.
        known: names of data sets that are built in, which may be meant.
        options: further arguments of `datasets.load_dataset`, such as `streaming=True`.

    Raises:
        OSError: it cannot be found, reached or read. ValueError: there is no such configuration, or nothing in it; a
            revision of what lies on this machine.
    """
    if not is_reader(args.dataset):
        said = ("--dataset_revision", args.dataset_revision)
        check_place(args.argument, args.dataset, revision=said, known=known)
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    files = {option: getattr(args, option) for option in ("data_files", "data_dir")}
    given = [f"--{option} {value}" for option, value in files.items() if value]
    what = f"{args.argument}: {args.dataset!r}"
    how = f", with {', '.join(given)}" if given else ""
    source = {
        "path": name or args.dataset,
        "name": args.dataset_config,
        "data_dir": args.data_dir,
        "data_files": data_files or args.data_files,
        "cache_dir": args.cache_dir,
        "revision": args.dataset_revision,
        "token": token,
    }
    try:
        loaded = datasets.load_dataset(**source, **options)
        if stores_names(next(iter(loaded.values()))):
            found = datasets.load_dataset_builder(**source).config.data_files or {}
            check_stored_names([file for of_split in found.values() for file in of_split])
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        if os.path.isfile(args.dataset):
            raise no_data_set(args.argument, args.dataset) from error
        if os.path.exists(args.dataset) or args.data_dir and os.path.exists(args.data_dir):
            raise OSError(f"{what} cannot be read{how} ({error}).") from error
        raise OSError(
            f"{what} cannot be found or reached{how} ({error}). Without network only local files and data sets that "
            "are in the cache can be read."
        ) from error
    except ValueError as error:  # no such configuration, nothing in a split
        raise ValueError(f"{what}{how}: {error}") from error
    except DatasetGenerationError as error:
        if type(error.__cause__).__name__ == "SchemaInferenceError":
            raise ValueError(f"{what}{how}: there is nothing in it.") from error
        raise OSError(f"{what} cannot be read{how} ({error.__cause__ or error}).") from error
    except StopIteration as error:  # an empty JSON file
        raise ValueError(f"{what}{how}: there is nothing in it.") from error
    except ImportError:
        raise
    except Exception as error:  # of a folder or files that are something else
        raise OSError(f"{what} cannot be read{how} ({first_line(error)}).") from error
    return dict(loaded)


def check_built_in(args) -> None:
    """ValueError where arguments say more about a data set that comes with a library than its name."""
    for name in ("dataset_config", "dataset_revision", "data_files", "data_dir"):
        if getattr(args, name):
            raise ValueError(
                f"--{name}: goes with what the library datasets reads; {args.argument} {args.dataset} is all there is."
            )


def pick_split(splits: dict, argument: str, name: str):
    """The split called `name`; a ValueError that names `argument` if there is none."""
    if name not in splits:
        raise ValueError(f"{argument}: there is no {name!r}, the splits are {', '.join(splits)}.")
    return splits[name]


def only_split(splits: dict, argument: str, name: str | None) -> str:
    """The name of the split that is asked for, or of the only one there is; a ValueError that names `argument`."""
    if name is not None:
        pick_split(splits, argument, name)
        return name
    if len(splits) != 1:
        raise ValueError(f"{argument}: name one of the splits, which are {', '.join(splits)}.")
    return next(iter(splits))


def evaluation_split(args, splits: Sequence[str], *, alone: bool = False) -> str | None:
    """Name of the split to evaluate on; None where its samples are held out of the training split.

    This is the rule of every task: what `--eval_fraction` or `--eval_holdout` hold out, or else `--eval_split`, or
    else the first of `EVAL_SPLITS`. Where there is none of them training holds out some samples, and an evaluation by
    itself takes the only split as a whole.

    Args:
        args: `SplitArguments`.
        splits: those that there are.
        alone: there is no training.

    Raises:
        ValueError: there is no such split, or (alone) it is not clear which of several is meant.
    """
    if args.eval_fraction is not None or args.eval_holdout is not None:
        return None
    if args.eval_split is not None:
        if args.eval_split not in splits:
            raise ValueError(f"--eval_split: there is no {args.eval_split!r}, the splits are {', '.join(splits)}.")
        return args.eval_split
    usual = next((name for name in EVAL_SPLITS if name in splits), None)
    if usual is not None or not alone:
        return usual
    if len(splits) != 1:
        raise ValueError(f"--eval_split: name one of the splits of {args.dataset}, which are {', '.join(splits)}.")
    (only,) = splits
    if only == args.train_split:
        logger.warning(
            "evaluating on all of %s/%s, its only split. A model that was trained on it has seen these samples; "
            "`hf-effmodels evaluate` takes those it has not, by the training's --eval_fraction or --eval_holdout.",
            *(args.dataset, only),
        )
    return only


def number_held_out(args, total: int, split: str, default: int | None = None, *, is_exact: bool = True) -> int:
    """How many of the `total` samples of the training split are held out: `--eval_holdout` or `--eval_fraction`, else
    `default`, a tenth of them unless given. At least one is, and at least one stays.

    Args:
        is_exact: whether just so many are, which is said then.

    Raises:
        ValueError: nothing could be held out, or nothing would stay.
    """
    if args.eval_holdout is not None and args.eval_holdout >= total:
        raise ValueError(
            f"--eval_holdout: {args.eval_holdout} of the {total} samples of {split} leave none to train on."
        )
    if total < 2:
        raise ValueError(f"--eval_split: {split} has {total} samples: nothing can be held out for the evaluation.")
    if args.eval_holdout is not None:
        number = args.eval_holdout
    elif args.eval_fraction is None and default is not None:
        number = default
    else:
        number = round((args.eval_fraction or EVAL_FRACTION) * total)
    number = min(max(1, number), total - 1)
    if is_exact:
        say_held_out(number, total, split)
    return number


def say_held_out(number: int, total: int, split: str) -> None:
    """Log how many of the samples of the training split are evaluated on."""
    logger.info("evaluating on %d of the %d samples of %s", number, total, split)


def held_out_unasked(args, split: str) -> dict[str, float]:
    """What an evaluation after the training is told to take what that held out, where its own arguments do not say so.

    Args:
        args: `SplitArguments` of the training.
        split: what it evaluates on.
    """
    is_said = args.eval_fraction is not None or args.eval_holdout is not None
    return {"eval_fraction": EVAL_FRACTION} if split.endswith(HELD_OUT) and not is_said else {}


def stratified_sample(labels: np.ndarray, fraction: float) -> np.ndarray:
    """A mask of about `fraction` of each class, the same in every run: at least one of a class of two or more."""
    _, sizes = np.unique(labels, return_counts=True)
    return _drawn(labels, [min(size - 1, max(1, round(fraction * size))) for size in sizes.tolist()])


def stratified_choice(labels: np.ndarray, number: int) -> np.ndarray:
    """A mask of `number` samples, the same in every run: of each class its share, and not its last sample as long as
    others have some left."""
    _, sizes = np.unique(labels, return_counts=True)
    share, limit = number * sizes / len(labels), sizes - 1
    counts = np.minimum(np.floor(share).astype(np.int64), limit)
    while counts.sum() < number:
        if (counts == limit).all():
            limit = sizes
        counts[np.argmax(np.where(counts < limit, share - counts, -np.inf))] += 1
    return _drawn(labels, counts.tolist())


def grouped_choice(groups: np.ndarray, number: int, split: str) -> np.ndarray:
    """A mask of `number` samples, or a few more or fewer, since those of one group (such as the captions of an image)
    are drawn together: the same in every run, and not all groups.

    Args:
        groups: of each sample.
        number: how many are wanted.
        split: where they come from, for the error.

    Raises:
        ValueError: there is one group.
    """
    order, taken, count = np.random.default_rng(0).permutation(len(groups)), [], 0
    sizes = Counter(groups.tolist())
    if len(sizes) == 1:
        raise ValueError(f"--eval_split: {split} is about one image: nothing would be left to train on.")
    for group in dict.fromkeys(groups[order].tolist()):
        if count >= number:
            break
        taken.append(group)
        count += sizes[group]
    return np.isin(groups, taken[: len(sizes) - 1])


def _drawn(labels: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    rng = np.random.default_rng(0)
    mask = np.zeros(len(labels), dtype=bool)
    for label, count in zip(np.unique(labels), counts, strict=True):
        mask[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return mask


class Column:
    """One column of a table, by row number."""

    def __init__(self, rows, name: str):
        self.rows = rows
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int):
        return self.rows[row][self.name]


def find_column(argument: str, asked_for: str | None, typed: list[str], usual: Sequence[str], features) -> str:
    """The column asked for, or the only one of the right type, or the only one of a usual name; else a ValueError."""
    if asked_for is not None:
        if asked_for not in features:
            raise ValueError(f"--{argument}: there is no {asked_for!r}, the columns are {', '.join(features)}.")
        return asked_for
    candidates = typed or [name for name in usual if name in features]
    if len(candidates) != 1:
        found = f"could be any of {', '.join(candidates)}" if candidates else "is not clear"
        raise ValueError(f"--{argument}: it {found}; say which of the columns it is: {', '.join(features)}.")
    return candidates[0]
