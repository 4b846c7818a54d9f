"""What a teacher says of every augmented training picture, so that training needs no teacher.

The arguments are those of the distillation it is for: its recipe, with the teacher. Training takes the same recipe
with `--stored_labels FOLDER` in the teacher's place.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ..._files import whole_file, write_json
from ..data.stored_labels import IDS, PROBABILITIES, SEED, SETTINGS_FILE, digest_of
from ..run.arguments import ArgumentReader, FilledReader
from ..run.values import check_fields
from ..task import load_task

#: In the output folder until all is done; hidden, so that `datasets` does not take it for the table.
_UNFINISHED = ".unfinished"


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
        default="float16", metadata={"help": "Of the probabilities; float16 is the published one."}
    )
    shard_size: int = field(
        default=8192, metadata={"accepts": "[1, inf)", "help": "Rows in a file; a kill loses at most so many."}
    )

    def __post_init__(self):
        check_fields(self)


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
    if reader.task != "distillation":
        raise ValueError(f"--task: got {reader.task}, accepted is distillation: the labels are for one.")
    task = load_task(reader.task)
    # The run's own folder stays untouched: nothing is trained.
    args, distillation, *arguments = reader.read(SoftLabelArguments, *task.TRAINING_ARGUMENTS)
    if distillation.stored_labels is not None:
        raise ValueError("--stored_labels: these are made here; name a --teacher.")
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file.")
    run = task.prepare_training(FilledReader(reader.task, (), (distillation, *arguments)))
    trainer = run.trainer
    if trainer.args.world_size > 1:
        raise ValueError(f"prepare soft-labels: got {trainer.args.world_size} processes, accepted is one.")
    if trainer.teachers is None:
        raise ValueError("--teacher is missing: name an image classifier on the Hub or in a local folder.")
    settings = task.stored_settings(trainer, arguments)
    classes = len(settings["classes"])
    if args.top_k > classes:
        raise ValueError(f"--top_k: got {args.top_k}, accepted are numbers up to that of the classes, {classes}.")
    settings |= {"epochs": task.epochs_of(trainer), "teacher": distillation.teachers}
    settings |= {"revision": distillation.teacher_revision, "top_k": args.top_k, "precision": args.label_precision}
    settings |= {"shard_size": args.shard_size, "pictures": digest_of(trainer.train_dataset, settings["epochs"])}
    _check_output(output, settings)
    return trainer, args, settings


def _check_output(output: Path, settings: dict) -> None:
    """ValueError unless the folder is free, or holds the unfinished table of these very settings."""
    if not output.exists() or not any(output.iterdir()):
        return
    try:
        begun = json.loads((output / _UNFINISHED / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"--output: {output} is not empty and holds no unfinished table; name another.") from None
    changed = [key for key in settings if begun.get(key) != settings[key]]
    if changed:
        raise ValueError(f"--output: {output} holds a table begun with another {', '.join(changed)}.")


def _write(trainer, args: SoftLabelArguments, settings: dict) -> Path:
    output, rows = Path(args.output), settings["samples"] * settings["epochs"]
    unfinished = output / _UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    write_json(unfinished / SETTINGS_FILE, settings)
    starts = range(0, rows, args.shard_size)
    with tqdm(total=rows, unit="picture", disable=None) as progress:
        for number, start in enumerate(starts):
            numbers = range(start, min(start + args.shard_size, rows))
            shard = unfinished / f"train-{number:05d}.parquet"
            if shard.exists():
                progress.update(len(numbers))
            else:
                _write_shard(trainer, numbers, args, shard, progress)
    for number in range(len(starts)):
        name = f"train-{number:05d}"
        target = output / "data" / f"{name}-of-{len(starts):05d}.parquet"
        target.parent.mkdir(exist_ok=True)
        if (unfinished / f"{name}.parquet").exists():
            os.replace(unfinished / f"{name}.parquet", target)
    write_json(output / SETTINGS_FILE, settings)
    shutil.rmtree(unfinished)
    return output


def _write_shard(trainer, numbers: range, args: SoftLabelArguments, file: Path, progress) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    loader = DataLoader(
        Subset(trainer.train_dataset, numbers),
        batch_size=trainer.args.per_device_train_batch_size,
        num_workers=trainer.args.dataloader_num_workers,
    )
    found = {SEED: [], IDS: [], PROBABILITIES: []}
    for batch in loader:
        with trainer.accelerator.autocast():
            logits = trainer.teachers.logits(batch["pixel_values"].to(trainer.args.device))
        kept = logits.float().softmax(1).topk(args.top_k)
        found[SEED].append(batch["sample_seed"].numpy().astype(np.int64))
        found[IDS].append(kept.indices.cpu().numpy().astype(np.int32))
        found[PROBABILITIES].append(kept.values.cpu().numpy().astype(args.label_precision))
        progress.update(len(logits))
    columns = {SEED: pa.array(np.concatenate(found[SEED]))}
    for name in (IDS, PROBABILITIES):
        values = np.concatenate(found[name])
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    with whole_file(file) as part:
        pq.write_table(pa.table(columns), part)
