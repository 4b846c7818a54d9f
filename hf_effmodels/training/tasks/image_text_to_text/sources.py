"""The data sets of the paper, and tables: whatever is named becomes `Samples`, checked before training starts."""

import os
from collections.abc import Callable
from pathlib import Path

from ...data.digits import load_image_splits
from ...data.splits import evaluation_split, number_held_out, say_held_out
from . import coco_captions, instructions, mme, science_qa, table
from .arguments import VisionLanguageDataArguments
from .samples import Samples

#: Hub ids whose columns say what they are.
KNOWN = {"derek-thomas/ScienceQA": "science_qa", "lmms-lab/MME": "mme", "digits": "table"}
#: Longest answers, where the arguments do not say.
NEW_TOKENS = {"science_qa": 1, "coco_captions": 20, "mme": 10, "instructions": 32, "table": 32}
#: Formats with files of their own; the others are columns of a data set.
_FROM_FILES = {"coco_captions": coco_captions.splits, "instructions": instructions.splits}
_FROM_FOLDERS = {"science_qa": science_qa.splits, "mme": mme.splits}
_FROM_ROWS = {"science_qa": science_qa.from_rows, "mme": mme.from_rows, "table": table.from_rows}


def resolve_format(args: VisionLanguageDataArguments) -> str:
    """`args.data_format`, or what `args.dataset` looks like.

    Raises:
        ValueError: it looks like nothing known.
    """
    if args.data_format is not None:
        return args.data_format
    folder = Path(args.dataset)
    if args.dataset in KNOWN:
        return KNOWN[args.dataset]
    if (folder / "problems.json").is_file():
        return "science_qa"
    if (folder / "existence").is_dir():
        return "mme"
    raise ValueError(
        f"--data_format is missing: {args.dataset!r} could be any of {', '.join([*_FROM_FILES, *_FROM_ROWS])}."
    )


def load_data(args: VisionLanguageDataArguments, token: str | None = None) -> tuple[Samples, Samples]:
    """The training and the evaluation samples.

    Raises:
        ValueError: missing splits, columns or entries, images without a place in the text and the other way round.
        OSError: files or a data set that cannot be found or reached.
    """
    kind = resolve_format(args)
    if kind == "mme":
        raise ValueError("--data_format: mme is for evaluation only (hf-effmodels evaluate).")
    splits = _splits(args, kind, token)
    train = _pick(splits, "--train_split", args.train_split, args)
    if args.eval_dataset is not None:
        evaluation = load_evaluation_data(args, token)
    elif (name := evaluation_split(args, list(splits))) is not None:
        evaluation = _pick(splits, "--eval_split", name, args)
    else:
        train, evaluation = _hold_out(train, args)
    return _looked_at(train.evenly(args.max_train_samples)), _looked_at(evaluation.evenly(args.max_eval_samples))


def load_evaluation_data(args: VisionLanguageDataArguments, token: str | None = None) -> Samples:
    """The evaluation samples alone, those of `load_data`; of a data set with one split all of it, unless the arguments
    hold some out. Raises as `load_data`."""
    if args.eval_dataset is not None:
        args = args.of_eval_dataset()
    splits = _splits(args, resolve_format(args), token)
    name = evaluation_split(args, list(splits), alone=True)
    if name is None:
        samples = _hold_out(_pick(splits, "--train_split", args.train_split, args), args)[1]
    else:
        samples = _pick(splits, "--eval_split", name, args)
    return _looked_at(samples.evenly(args.max_eval_samples))


def _hold_out(train: Samples, args: VisionLanguageDataArguments) -> tuple[Samples, Samples]:
    rest, held_out = train.held_out(number_held_out(args, len(train), train.split, is_exact=False))
    say_held_out(len(held_out), len(train), train.split)
    return rest, held_out


def _splits(args: VisionLanguageDataArguments, kind: str, token: str | None) -> dict[str, Callable[[], Samples]]:
    """Split -> what reads it."""
    if args.question is not None and kind != "table":
        raise ValueError(f"--question goes with --data_format table, not {kind}.")
    if args.caption_file is not None and (kind != "science_qa" or not os.path.isdir(args.dataset)):
        raise ValueError("--caption_file goes with ScienceQA in a folder, whose questions have the numbers it names.")
    if args.image_folder is not None and not os.path.isdir(args.image_folder):
        raise FileNotFoundError(f"--image_folder: there is no folder {args.image_folder!r}.")
    if kind in _FROM_FILES:
        return _FROM_FILES[kind](args)
    if kind in _FROM_FOLDERS and os.path.isdir(args.dataset):
        return _FROM_FOLDERS[kind](args)
    loaded = load_image_splits(args, token)
    make = _FROM_ROWS[kind]
    return {
        name: lambda name=name, rows=rows: make(rows, args, f"{args.dataset}/{name}") for name, rows in loaded.items()
    }


def _pick(splits: dict, argument: str, name: str, args: VisionLanguageDataArguments) -> Samples:
    if name not in splits:
        raise ValueError(f"{argument}: there is no {name!r} in {args.dataset}, the splits are {', '.join(splits)}.")
    return splits[name]()


def _looked_at(samples: Samples) -> Samples:
    """The samples after a look at the first and the last: what is wrong with all of them is said at once."""
    for index in {0, len(samples) - 1}:
        samples[index]
    return samples
