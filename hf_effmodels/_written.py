"""Folders that are written again: a record in each, by which the writer knows its own files again.

A name says nothing: somebody else's folder may hold a file that is called like a report of ours, and a user may put a
`vocab.json` into our folder or edit what we wrote.
"""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ._files import check_folder, sha256, whole_folder

#: In such a folder: who has written it, and the SHA-256 of each file.
RECORD = ".written_files.json"


def check_rewritable(folder: Path, writer: str, names: Collection[str] = ()) -> None:
    """Refuse a folder in which something would be lost.

    Args:
        folder: new, empty, or written by the same writer before.
        writer: who writes, such as the name of a command.
        names: of files that are going to be written: they must not be somebody else's.

    Raises:
        FileExistsError: it holds files and no record, a file was changed since it was written, or one of `names` is
            not ours.
    """
    check_folder(folder, accepts_content=True)
    if not folder.exists() or not any(folder.iterdir()):
        return
    before, ours = read_record(folder)
    if before is None:
        raise FileExistsError(
            f"{folder} was not written by this command: it holds no {RECORD} with the names of what was. "
            "It is not replaced; name a new or an empty folder."
        )
    if before != writer:
        raise FileExistsError(
            f"{folder} was not written by this command, but by {before}. It is not replaced; name a "
            "new or an empty folder."
        )
    if changed := sorted(name for name, is_as_it_was in ours.items() if not is_as_it_was):
        raise FileExistsError(
            f"{folder / changed[0]} has been changed since it was written, and would be lost. Move it "
            "away, or choose another folder."
        )
    if foreign := sorted(name for name in names if name not in ours and os.path.lexists(folder / name)):
        raise FileExistsError(
            f"{folder / foreign[0]} was not written by this command, and one of this name is to be. Move it "
            "away, or choose another folder."
        )


#: Of every command that may replace what it wrote before.
OVERWRITE = "replace what an earlier call wrote into the folder"


def check_free(argument: str, folder: str | os.PathLike, overwrite: bool) -> None:
    """FileExistsError of a folder that holds something, unless it was said that this may be replaced; what of it is
    one's own to replace, others say."""
    if not overwrite and os.path.isdir(folder) and os.listdir(folder):
        raise FileExistsError(
            f"{argument}: {folder} is not empty; choose another folder, or replace what this command wrote there with "
            "--overwrite."
        )


def check_report(file: str | os.PathLike, keys: Collection[str], writer: str) -> None:
    """FileExistsError if a file is there that is not the JSON report of a writer, by the keys of that."""
    try:
        content = json.loads(Path(file).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not {*keys} <= {*content}:
        raise FileExistsError(f"output: {file} is there, and no file of {writer}: name another one.")


@contextmanager
def rewritten(folder: str | os.PathLike, writer: str) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when all is written; files of others that are there stay.

    Raises:
        FileExistsError: see `check_rewritable`; at the end, too, of what somebody has done there meanwhile.
    """
    folder = Path(folder)
    check_rewritable(folder, writer)
    ours = {*read_record(folder)[1], RECORD}
    with whole_folder(folder, replaces=lambda name, path: name in ours) as new:
        yield new
        names = {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()}
        check_rewritable(folder, writer, names)
        digests = {name: sha256(new / name) for name in sorted(names)}
        record = {"writer": writer, "files": digests}
        (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def clear_written(folder: Path, writer: str) -> None:
    """Delete what a writer has written into a folder and nobody has changed since, and the folder if it is empty then.
    Everything else stays."""
    before, ours = read_record(folder)
    if folder.is_symlink() or before != writer:
        return
    inside = {name for name, as_it_was in ours.items() if as_it_was and ".." not in Path(name).parts}
    for name in sorted(inside):
        (folder / name).unlink()
    if inside == {*ours}:
        (folder / RECORD).unlink()
    below = {place for name in inside for place in (folder / name).parents if folder in place.parents}
    for path in (*sorted(below, reverse=True), folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def read_record(folder: Path) -> tuple[str | None, dict[str, bool]]:
    """Who has written a folder; and name of each file that was written and is there still -> whether it is as it was
    written.

    None and nothing where there is no record, or one that is none.
    """
    try:
        record = json.loads((folder / RECORD).read_bytes())
        writer, digests = record["writer"], record["files"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None, {}
    if not isinstance(writer, str) or not isinstance(digests, dict) or not digests:
        return None, {}
    there = {name: folder / name for name in digests if not Path(name).is_absolute() and (folder / name).is_file()}
    return writer, {name: not path.is_symlink() and sha256(path) == digests[name] for name, path in there.items()}
