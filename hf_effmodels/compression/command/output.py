"""The folder that a step writes."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._files import whole_folder
from .written import RECORD, read_record, write_record


def add_output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--output", required=True, help="folder to write; it must not exist yet")
    sub.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote into the folder")


def free_output(arguments, *names: str) -> Path:
    """`--output`, which is new or was written by such a step, and may be replaced.

    Args:
        names: of files that this step is going to write: they must not be somebody else's.
    """
    output = Path(arguments.output)
    if not output.exists():
        return output
    if not arguments.overwrite:
        raise ValueError(f"--output: {output} exists; choose another folder, or replace it with --overwrite.")
    ours = read_record(output)
    if ours is None:
        raise ValueError(
            f"--output: {output} was not written by this command: it holds no {RECORD} with the names of what was. It "
            "is not replaced."
        )
    if changed := sorted(name for name, is_as_it_was in ours.items() if not is_as_it_was):
        raise ValueError(
            f"--output: {output / changed[0]} has been changed since it was written, and would be lost. Move it away, "
            "or choose another folder."
        )
    _refuse_foreign(output, ours, names)
    return output


@contextmanager
def writing(output: Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` when all is written; files of others that are there stay.

    Raises:
        ValueError: a file that somebody has put or changed there meanwhile has a name that was to be written.
    """
    ours = read_record(output) or {}
    mine = {name for name, is_as_it_was in ours.items() if is_as_it_was} | {RECORD}
    with whole_folder(output, replaces=lambda name, path: name in mine) as new:
        yield new
        _refuse_foreign(output, mine, [path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()])
        write_record(new)


def _refuse_foreign(output: Path, ours, names) -> None:
    if foreign := sorted(name for name in names if name not in ours and os.path.lexists(output / name)):
        raise ValueError(
            f"--output: {output / foreign[0]} was not written by this command, and one of this name is to be. Move it "
            "away, or choose another folder."
        )
