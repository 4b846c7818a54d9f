"""Where an evaluation writes what it measured: into the file that was named, beside the call that measured it, and
never over anything else."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..._files import write_json
from .recipe_arguments import resolved
from .values import SET

#: In a file of results: the arguments of the evaluation, as far as they say what was measured.
CALL = "arguments"
#: They say where results go and how fast they come.
FREE_KEYS = frozenset(
    "output overwrite reports answers save_images cache_dir check_images dataloader_num_workers "
    "per_device_eval_batch_size preprocessing_num_workers".split()
)


@dataclass
class ResultsArguments:
    """Where the results go."""

    output: str | None = field(
        default=None, metadata={"help": "JSON file for the results (default: they are only printed)."}
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "goes_with": {"output": SET, "answers": SET, "save_images": SET},
            "help": "Replace the results of another evaluation. Those of the same one are replaced anyway; what no "
            "evaluation has written never is.",
        },
    )


def open_results(task: str, arguments: Sequence) -> dict:
    """The call of an evaluation, for `write_results_file`. Nothing is written yet.

    Args:
        task: its name.
        arguments: the filled dataclasses; the last one is a `ResultsArguments`.

    Raises:
        ValueError: the results would replace something else, or cannot be written there.
    """
    args = arguments[-1]
    call = {"task": task, **resolved(*arguments)}
    call = {key: value for key, value in call.items() if key not in FREE_KEYS}
    same = args.output is not None and check_results(Path(args.output), call, args.overwrite)
    for name, check in (("answers", _check_answers), ("save_images", _check_images)):
        if getattr(args, name, None) is not None:
            check(f"--{name}", Path(getattr(args, name)), same or args.overwrite)
    return call


def check_results(file: Path, call: Mapping, overwrite: bool) -> bool:
    """Whether the file holds results of this very call; ValueError where it may not be written."""
    _check_place("--output", file)
    if not file.exists():
        return False
    held = _read(file)
    if held is None:
        raise ValueError(f"--output: {file} is there, and no evaluation has written it. Choose another file.")
    before, now = held.get(CALL), call
    if not isinstance(before, dict):
        before, now = ({key: said.get(key) for key in ("model", "dataset")} for said in (held, call))
    differs = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differs and not overwrite:
        listed = "; ".join(f"{key}: {before.get(key)}" for key in differs)
        raise ValueError(
            f"--output: {file} holds the results of another evaluation ({listed}). Name another file, such "
            f"as --output {shlex.quote(str(file.with_stem(f'{file.stem}-2')))}, or replace them with --overwrite true."
        )
    return not differs


def write_results_file(output: str | None, results: Mapping, call: Mapping) -> dict:
    """Write what was measured, and the call that measured it, as JSON, where a file was named; returns both."""
    written = {**results, CALL: dict(call)}
    if output is not None:
        write_json(output, written)
    return written


def _read(file: Path) -> dict | None:
    """Results of an evaluation, None where the file holds none."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) and {"model", "dataset"} <= held.keys() else None


def _check_place(argument: str, file: Path) -> None:
    if file.is_dir():
        raise ValueError(f"{argument}: {file} is a folder, accepted is a file.")
    for folder in file.parents:
        if folder.is_dir():
            return
        if folder.exists():
            raise ValueError(f"{argument}: {folder} is a file, not a folder to write {file.name} into.")


def _check_answers(argument: str, file: Path, may_replace: bool) -> None:
    _check_place(argument, file)
    if not file.exists():
        return
    try:
        with open(file, encoding="utf-8") as lines:
            ours = json.loads(next(lines)).keys() == {"prompt", "answer", "references"}
    except (OSError, ValueError, StopIteration, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise ValueError(f"{argument}: {file} is there, and no evaluation has written it. Choose another file.")
    if not may_replace:
        raise ValueError(
            f"{argument}: {file} holds the answers of an earlier evaluation. Choose another file, or replace them "
            "with --overwrite true."
        )


def _check_images(argument: str, folder: Path, may_replace: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{argument}: {folder} is a file.")
    _check_place(argument, folder / "image.png")
    if folder.is_dir() and any(folder.iterdir()) and not may_replace:
        raise ValueError(
            f"{argument}: {folder} is not empty. Choose another folder, or replace images of the same names with "
            "--overwrite true."
        )
