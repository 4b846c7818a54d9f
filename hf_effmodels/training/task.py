"""What a task offers, and how one is found.

A task is a folder: a package whose `__init__.py` says which extras it needs, and whose `task.py` offers the rest of
`Task`. The folders of `training/tasks/` are found by their names; a package of your own by its import path,
`--task my_package.counting`, wherever it is installed or on `PYTHONPATH`.

    counting/
      __init__.py       EXTRAS = ("train",), and where one names a model HEADS = {"model": "AutoModelForMaskedLM"}:
                        the Auto class (or classes, or None: diffusers) that a folder is for, see `run.early`;
                        TAKES_FILES = False where no single file can be --dataset
      task.py           TRAINING_ARGUMENTS, EVALUATION_ARGUMENTS, prepare_training, prepare_evaluation
      ...               whatever else it needs: arguments.py, data.py, models.py, trainer.py, reports.py
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .run.arguments import ArgumentReader
    from .run.run import Run


class Task(Protocol):
    """What the module `task.py` of a task offers."""

    #: The dataclasses that read a training recipe, in the order in which `reader.read` fills them. The last one is
    #: a `RecipeArguments`. Together they are all the keys that a recipe of this task may have.
    TRAINING_ARGUMENTS: tuple[type, ...]
    #: The same for an evaluation; its last one says how to evaluate, and where to write the results.
    EVALUATION_ARGUMENTS: tuple[type, ...]

    def prepare_training(self, reader: "ArgumentReader") -> "Run":
        """Read and check everything, and build the model, the data and the trainer; write nothing.

        Raises:
            ValueError, OSError: wrong input, in the words of the command line. What can fail fails here.
        """

    def prepare_evaluation(self, reader: "ArgumentReader") -> Callable[[], dict[str, float]]:
        """Read and check everything; the function returned evaluates, writes the results and returns them."""


def list_tasks() -> list[str]:
    """Names of the tasks of this package, such as `"image-classification"`: the folders of `tasks/`."""
    from . import tasks

    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(tasks.__path__) if found.ispkg)


def load_task(name: str) -> Task:
    """The module `task.py` of a task.

    Args:
        name: one of `list_tasks()`, or the import path of a package that is a task.

    Raises:
        ValueError: there is no such task, or it does not offer what a task must.
        ImportError: it needs something that is not installed; names the extras.
    """
    with naming_extras(name):
        task = importlib.import_module(f"{_package(name)}.task")
    _check(name, task)
    return task


def task_folder(name: str) -> Path:
    """Where the modules of a task are; imports none of them. Raises as `load_task`."""
    return Path(importlib.util.find_spec(_package(name)).submodule_search_locations[0])


def task_extras(name: str) -> tuple[str, ...]:
    """Names of the extras of this package that a task needs, as its `__init__.py` states them."""
    package = _package(name)
    extras = getattr(importlib.import_module(package), "EXTRAS", None)
    if not isinstance(extras, tuple) or not all(isinstance(extra, str) for extra in extras):
        raise ValueError(
            f"--task {name}: {package} has no EXTRAS; state in its __init__.py what the task needs to be installed, "
            'such as EXTRAS = ("train",), or EXTRAS = ().'
        )
    return extras


@contextmanager
def naming_extras(name: str) -> Iterator[None]:
    """Within it a library that cannot be imported ends in an ImportError with the extras that the task needs.

    Not so a module of the task itself, or of this package: that is somebody's mistake, and no extra brings it.
    """
    extras = task_extras(name)
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not extras or missing in ("", __name__.partition(".")[0], name.partition(".")[0]):
            raise
        install = f"pip install 'hf_effmodels[{','.join(extras)}]'"
        raise ImportError(f"{error}. --task {name} needs the extras: {install}.", name=missing) from error


def _package(name: str) -> str:
    if name in list_tasks():
        return f"{__package__}.tasks.{name.replace('-', '_')}"
    if all(part.isidentifier() for part in name.split(".")):
        try:
            found = importlib.util.find_spec(f"{name}.task")
        except ModuleNotFoundError as error:
            if not f"{name}.task".startswith(error.name or "?"):
                raise  # the package is there, and lacks something itself
            found = None
        if found is not None:
            return name
    raise ValueError(
        f"--task: got {name!r}, accepted are {', '.join(map(repr, list_tasks()))}, and the import path of a package "
        "that has a module task.py."
    )


def _check(name: str, task) -> None:
    missing = [part for part in ("prepare_training", "prepare_evaluation") if not callable(getattr(task, part, None))]
    missing += [
        part
        for part in ("TRAINING_ARGUMENTS", "EVALUATION_ARGUMENTS")
        if not (isinstance(types := getattr(task, part, None), tuple) and types and all(map(is_dataclass, types)))
    ]
    if missing:
        raise ValueError(
            f"--task {name}: {task.__name__} does not offer {', '.join(missing)}; what a task offers is said in "
            f"{__name__}.Task."
        )
