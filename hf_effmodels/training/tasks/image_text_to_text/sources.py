"""The data sets of the paper, and tables: whatever is named becomes `Samples`, checked before training starts."""

import logging
from collections.abc import Callable
from pathlib import Path

from ..image_classification.data import load_image_splits
from . import coco_captions, instructions, mme, science_qa, table
from .arguments import VisionLanguageDataArguments
from .samples import Samples

logger = logging.getLogger(__name__)

EVAL_SPLITS = ("validation", "valid", "val", "test")
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
        raise ValueError("--data_format: mme is for evaluation only (scripts/eval.py).")
    splits = _splits(args, kind, token)
    train = _pick(splits, "--train_split", args.train_split, args)
    name = args.eval_split or next((name for name in EVAL_SPLITS if name in splits), None)
    if args.eval_fraction is not None or name is None:
        fraction = args.eval_fraction or 0.1
        if len(train) < 2:
            raise ValueError(f"{train.split} has {len(train)} row: nothing can be held out for the evaluation.")
        logger.info("evaluating on %g per cent of %s", 100 * fraction, train.split)
        train, evaluation = train.held_out(fraction)
    else:
        evaluation = _pick(splits, "--eval_split", name, args)
    return _looked_at(train.evenly(args.max_train_samples)), _looked_at(evaluation.evenly(args.max_eval_samples))


def load_evaluation_data(args: VisionLanguageDataArguments, token: str | None = None) -> Samples:
    """The evaluation samples alone; raises as `load_data`."""
    splits = _splits(args, resolve_format(args), token)
    name = args.eval_split or next((name for name in EVAL_SPLITS if name in splits), None)
    if name is None:
        raise ValueError(f"--eval_split: name one of the splits of {args.dataset}, which are {', '.join(splits)}.")
    return _looked_at(_pick(splits, "--eval_split", name, args).evenly(args.max_eval_samples))


def _splits(args: VisionLanguageDataArguments, kind: str, token: str | None) -> dict[str, Callable[[], Samples]]:
    """Split -> what reads it."""
    if args.question is not None and kind != "table":
        raise ValueError(f"--question goes with --data_format table, not {kind}.")
    if args.caption_file is not None and (kind != "science_qa" or not Path(args.dataset).is_dir()):
        raise ValueError("--caption_file goes with ScienceQA in a folder, whose questions have the numbers it names.")
    if args.image_folder is not None and not Path(args.image_folder).is_dir():
        raise FileNotFoundError(f"--image_folder: there is no folder {args.image_folder!r}.")
    if kind in _FROM_FILES:
        return _FROM_FILES[kind](args)
    if kind in _FROM_FOLDERS and Path(args.dataset).is_dir():
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
