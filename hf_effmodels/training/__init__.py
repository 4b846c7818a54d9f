"""Training and evaluation behind `scripts/train.py` and `scripts/eval.py`.

A task is a folder of `tasks/` and is found by its name; `task.py` says what one offers.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager

from .._command_line import TRACEBACK, UNFORESEEN, keeping_progress_bars, show, without_progress_bars
from .run.arguments import ArgumentReader
from .run.early import argument_types, check_early
from .run.help import help_text
from .run.launch import start_missing_processes
from .run.source import NotShown
from .task import list_tasks, load_task, naming_extras, task_folder

__all__ = ["evaluate", "list_tasks", "load_task", "main", "prepare", "set_up_logging"]


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train as the arguments say: `--task`, `--config recipe.yaml`, `--key value ...` (see `docs/` or `--help`).

    Args:
        argv: the arguments. Without them those of the running program are taken, and wrong input ends the program
            with one line instead of a traceback.

    Returns:
        The final metrics, as written into `all_results.json`.

    Raises:
        ValueError, OSError: before training starts, for wrong input. Nothing has been written then.
    """
    return _run("prepare_training", argv)


def evaluate(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Evaluate a model on a data set (`--task`, `--model`, `--dataset`, ...); see `main`."""
    return _run("prepare_evaluation", argv)


def _run(stage: str, argv: Sequence[str] | None) -> dict[str, float]:
    if argv is not None:
        return prepare(stage, list(argv))()
    with keeping_progress_bars():
        return _run_as_program(stage)


def _run_as_program(stage: str) -> dict[str, float]:
    with _one_line_errors(ValueError, OSError, ImportError), _one_line_surprises():
        reader = _read_early(stage, sys.argv[1:])
        start_missing_processes()
        set_up_logging()
        work = _prepare(stage, reader)
    from .data.errors import SampleError
    from .run.finite import NotFiniteError
    from .run.lock import LockedError
    from .run.weights import WeightsError

    # What ends a run in its midst and is nobody's mistake in the code: data, numbers, checkpoint, disk, Hub.
    with _one_line_errors(SampleError, LockedError, NotFiniteError, WeightsError, OSError):
        return work()


def prepare(stage: str, argv: list[str]) -> Callable[[], dict[str, float]]:
    """Everything up to the point where the work starts: what the task's function `stage` returns, which is a `Run`
    for `"prepare_training"`."""
    return _prepare(stage, _read_early(stage, argv))


def _read_early(stage: str, argv: list[str]) -> ArgumentReader:
    reader = ArgumentReader(argv)
    arguments = stage.removeprefix("prepare_").upper() + "_ARGUMENTS"
    if asked := reader.asks_for_help():
        show(_help(reader.task, arguments, full=asked == "--help-all"))
        raise SystemExit(0)
    check_early(reader, task_folder(reader.task), arguments)
    return reader


def _help(task: str, arguments: str, full: bool) -> str:
    try:
        types = argument_types(task_folder(task), arguments)
    except NotShown:  # a task whose arguments only importing it shows
        types = getattr(load_task(task), arguments)
    program = sys.argv[0] if sys.argv[0].startswith("hf-effmodels") else os.path.basename(sys.argv[0])
    trains = arguments.startswith("TRAINING")
    return help_text(program, task, list_tasks(), types, full=full, trains=trains)


def _prepare(stage: str, reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    task = load_task(reader.task)
    with naming_extras(reader.task):
        try:
            return getattr(task, stage)(reader)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "to be installed" in str(error):
                raise ImportError(f"--report_to: {error}") from error
            if isinstance(error, RuntimeError) and "allocat" not in str(error):
                raise
            raise ValueError(f"there is not enough memory for what the arguments ask for ({error}).") from error


def set_up_logging() -> None:
    logging.basicConfig(format="%(message)s")
    is_main = os.environ.get("RANK", "0") == "0"
    logging.getLogger("hf_effmodels").setLevel(logging.INFO if is_main else logging.ERROR)
    if not sys.stderr.isatty():
        without_progress_bars()


@contextmanager
def _one_line_errors(*kinds: type[Exception]):
    try:
        yield
    except kinds as error:
        message = str(error)
        if message.startswith("Caught "):  # in a data loader's worker, with the worker's traceback
            message = message.strip().splitlines()[-1].partition(": ")[2]
        sys.stderr.write(f"{sys.argv[0]}: error: {' '.join(message.split())}\n")
        raise SystemExit(2) from None


@contextmanager
def _one_line_surprises():
    """Before the work starts any error is about what was asked for, found by a library on its way; whoever looks for a
    mistake in the code asks for the traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        raise ValueError(f"{type(error).__name__}: {error} ({UNFORESEEN})") from error
