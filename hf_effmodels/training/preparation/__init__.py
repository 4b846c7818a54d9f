"""`hf-effmodels prepare NAME ...`: what is made once of a data set, before a training reads it.

A preparation is a module or a folder of this package, found by its name: `super_resolution_masks` is called
`super-resolution-masks`. The first line of its docstring says what it makes; `main(argv)` makes it and returns where.
Its module, or the folder's `table.py`, may have a tuple `ARGUMENTS` of the dataclasses that are read, and where those
for recipes of another task are others, `<TASK>_ARGUMENTS`: help and wrong arguments are answered by them, before
anything heavy is imported.
"""

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from ..._command_line import nearest, show
from ..run.arguments import ArgumentReader
from ..run.early import look_at
from ..run.source import assigns


def main(argv: Sequence[str]) -> None:
    """Run the preparation that `argv` names first, with the rest as its arguments, and print where its result is.

    Raises:
        ValueError, OSError, ImportError: an unknown name or wrong input, before anything is written.
    """
    name, arguments = (argv[0], list(argv[1:])) if argv else (None, [])
    if name in ("-h", "--help"):
        show(_help())
        return
    known = list_preparations()
    if name is None:
        raise ValueError(f"prepare: name what is to be made: {', '.join(known)}.")
    if name not in known:
        near = nearest(name, known, f"; accepted are {', '.join(known)}")
        raise ValueError(f"prepare: got {name}{near}.")
    _look_at(name, arguments)
    made = importlib.import_module(f".{name.replace('-', '_')}", __name__).main(arguments)
    show(f"{made}\n")


def _look_at(name: str, argv: list[str]) -> None:
    spec = importlib.util.find_spec(f".{name.replace('-', '_')}", __name__)
    folders = spec.submodule_search_locations
    file = Path(folders[0], "table.py") if folders else Path(spec.origin)
    reader = ArgumentReader(argv, f"hf-effmodels prepare {name}")
    of_task = f"{reader.task.replace('-', '_').upper()}_ARGUMENTS"
    look_at(reader, file, of_task if assigns(of_task, file) else "ARGUMENTS")


def list_preparations() -> dict[str, str]:
    """Names of the preparations with what each makes; none of them is imported."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        spec = importlib.util.find_spec(f"{__name__}.{module.name}")
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        found[module.name.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return dict(sorted(found.items()))


def _help() -> str:
    known = list_preparations()
    width = max(map(len, known))
    lines = [f"  {name.ljust(width)}  {text}" for name, text in known.items()]
    return "\n".join(["usage: hf-effmodels prepare NAME [--help] [--OPTION VALUE ...]", "", *lines, ""])
