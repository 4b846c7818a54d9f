"""What a teacher says of every augmented training picture, so that training needs no teacher.

The arguments are those of the distillation it is for: its recipe, with the teacher. Training takes the same recipe
with `--stored_labels FOLDER` in the teacher's place.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ..data.stored_labels import IDS, LOGITS, PROBABILITIES, SEED, SETTINGS_FILE, digest_of
from ..data.stored_tables import TableWriter, check_output
from ..run.arguments import ArgumentReader, FilledReader
from ..run.recipe_arguments import RecipeArguments
from ..run.values import check_fields
from ..task import load_task

_TASK = load_task("distillation")


@dataclass
class SoftLabelArguments:
    """What to store, and where."""

    output: str | None = field(
        default=None,
        metadata={
            "missing": "name a folder for the table.",
            "help": "Folder of the table; --stored_labels takes it",
        },
    )
    top_k: int = field(
        default=10,
        metadata={"accepts": "[1, inf)", "help": "Probabilities to keep; the other classes share the rest evenly."},
    )
    label_precision: Literal["float16", "float32"] = field(
        default="float16",
        metadata={
            "help": "Of the probabilities; float16 is the published one. float32 with all classes keeps the logits as "
            "they are."
        },
    )
    shard_size: int = field(
        default=8192, metadata={"accepts": "[1, inf)", "help": "Rows in a file; a kill loses at most so many."}
    )

    def __post_init__(self):
        check_fields(self)


#: Argument -> the Auto class that has a head for the model in a folder that it names.
HEADS = {"teacher": "AutoModelForImageClassification"}
#: What the command line is read into.
ARGUMENTS = (SoftLabelArguments, *_TASK.TRAINING_ARGUMENTS)


def main(argv: Sequence[str]) -> Path:
    """Write the table as the arguments say.

    Returns:
        The folder of the table.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    return _write(*_prepare(list(argv)))


def _prepare(argv: list[str]):
    reader = ArgumentReader(argv)
    if reader.task != "distillation" and not reader.asks_for_help():
        raise ValueError(f"--task: got {reader.task}, accepted is distillation: the labels are for one.")
    args, distillation, *arguments = reader.read(*ARGUMENTS)
    if distillation.stored_labels is not None:
        raise ValueError("--stored_labels: these are made here; name a --teacher.")
    for name in ("mixup", "cutmix"):
        if getattr(arguments[-1], name):
            raise ValueError(f"--{name}: labels are stored of pictures that are not mixed; accepted is 0.")
    output = Path(args.output)
    with (
        tempfile.TemporaryDirectory() as nothing_there
    ):  # nothing is trained: what the run's own folder holds is no matter
        for part in arguments:
            if isinstance(part, RecipeArguments):
                part.output_dir = str(Path(nothing_there, "run"))
        run = _TASK.prepare_training(FilledReader(reader.task, (), (distillation, *arguments)))
    trainer = run.trainer
    if trainer.args.world_size > 1:
        raise ValueError(f"prepare soft-labels: got {trainer.args.world_size} processes, accepted is one.")
    if trainer.teachers is None:
        raise ValueError("--teacher is missing: name an image classifier on the Hub or in a local folder.")
    settings = _TASK.stored_settings(trainer, arguments)
    classes = len(settings["classes"])
    if args.top_k > classes:
        raise ValueError(f"--top_k: got {args.top_k}, accepted are numbers up to that of the classes, {classes}.")
    settings |= {"epochs": _TASK.epochs_of(trainer), "teacher": distillation.teachers}
    settings |= {"revision": distillation.teacher_revision, "top_k": args.top_k, "precision": args.label_precision}
    settings["weights"] = {
        what: parts for what, parts in run.config["contents"].items() if what.startswith("teacher ")
    }
    exact = args.top_k == classes and args.label_precision == "float32"
    settings |= {"values": LOGITS if exact else PROBABILITIES}
    settings |= {"shard_size": args.shard_size, "pictures": digest_of(trainer.train_dataset, settings["epochs"])}
    check_output(output, settings, SETTINGS_FILE)
    return trainer, args, settings


def _write(trainer, args: SoftLabelArguments, settings: dict) -> Path:
    rows = settings["samples"] * settings["epochs"]
    table = TableWriter(Path(args.output), rows, args.shard_size, settings, SETTINGS_FILE)
    missing = table.missing()
    with tqdm(total=rows, unit="picture", disable=None) as progress:
        progress.update(rows - sum(map(len, missing.values())))
        for name, numbers in missing.items():
            table.write(name, _shard(trainer, numbers, args, settings["values"], progress))
    return table.finish()


def _shard(trainer, numbers: range, args: SoftLabelArguments, values: str, progress) -> dict:
    import pyarrow as pa

    loader = DataLoader(
        Subset(trainer.train_dataset, numbers),
        batch_size=trainer.args.per_device_train_batch_size,
        num_workers=trainer.args.dataloader_num_workers,
    )
    found = {SEED: [], IDS: [], values: []}
    for batch in loader:
        with trainer.accelerator.autocast():
            logits = trainer.teachers.logits(batch["pixel_values"].to(trainer.args.device))
        kept = (logits.float() if values == LOGITS else logits.float().softmax(1)).topk(args.top_k)
        found[SEED].append(batch["sample_seed"].numpy().astype(np.int64))
        found[IDS].append(kept.indices.cpu().numpy().astype(np.int32))
        found[values].append(kept.values.cpu().numpy().astype(args.label_precision))
        progress.update(len(logits))
    columns = {SEED: pa.array(np.concatenate(found[SEED]))}
    for name in (IDS, values):
        rows = np.concatenate(found[name])
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return columns
