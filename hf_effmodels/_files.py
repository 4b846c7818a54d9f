"""Write a file or a folder whole or not at all: the only place that does.

Everything is written beside its place under another name and then put there in one step. A process that is killed at
any point leaves the old or the new, never a mixture, and what it leaves beside is cleared away by the next writer.
A folder that is there is replaced as far as it is ours; other people's files in it stay.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)


# Files


@contextlib.contextmanager
def whole_file(file: str | os.PathLike) -> Iterator[Path]:
    """A path to write to, which becomes `file` at the end of the block, or is gone after an error.

    Missing folders are made. Of a link its target is written.
    """
    file = Path(file).resolve()
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; accepted is the name of a file")
    with _saying_where(f"{file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        part, lock = _claim(file)
    try:
        yield part
        if file.exists():
            shutil.copymode(file, part)
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        _close(lock)


@contextlib.contextmanager
def _saying_where(place: str) -> Iterator[None]:
    """What the system says of a temporary name is told of the name that was given."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{place} cannot be written ({error.strerror or error}).") from error


def write_bytes(file: str | os.PathLike, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(file) as part:
        part.write_bytes(content)


def write_text(file: str | os.PathLike, text: str) -> None:
    """Write a text file (UTF-8, line ends as they are) whole or not at all."""
    write_bytes(file, text.encode())


def write_json(file: str | os.PathLike, content, indent: int | None = 2) -> None:
    """Write a JSON file whole or not at all."""
    write_text(file, json.dumps(content, indent=indent) + "\n")


def mapping_in(file: str | os.PathLike) -> dict:
    """The mapping that a JSON file holds; empty where there is no such file, or it holds something else or a part."""
    try:
        held = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def sha256(file: str | os.PathLike) -> str:
    """Of what a file holds, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _claim(file: Path) -> tuple[Path, int | None]:
    """A name beside `file` that nobody else writes to now, and the lock that says so (None where there are none).

    What a killed process left under the first such name is used again, so nothing piles up.
    """
    part = file.with_name(f".{file.name}.part")
    while fcntl is not None:
        lock = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            _close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):  # no locks on this file system
                return part, None
            part = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.part")  # somebody else is writing
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(part)):
                return part, lock
        _close(lock)  # the other writer has just put it in place
    return part, None


# Folders


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike, *, replaces: Callable[[str, Path], bool] | None = None) -> Iterator[Path]:
    """An empty folder to write to, which becomes `folder` at the end of the block, or is gone after an error.

    Args:
        folder: where to. Missing parents are made; of a link its target is written.
        replaces: tells by its name (relative, with `/`) and its path whether a file of the folder that is there is
            ours and may go. All others stay, unless one of the same name has been written. Without it the folder
            must be new or empty.

    Raises:
        FileExistsError: `folder` is a file, or holds something and `replaces` is not given; nothing has been done.
        OSError: it cannot be written; the old folder is as it was.
    """
    folder = Path(folder).resolve()
    check_folder(folder, accepts_content=replaces is not None)
    new = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    with _saying_where(f"folder: {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        new.mkdir()
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(_close, _lock(new))
        # After an error the new folder, after success the old one.
        at_the_end.callback(shutil.rmtree, new, ignore_errors=True)
        yield new
        if folder.exists():
            _keep(folder, new, replaces or (lambda name, path: False))
            shutil.copymode(folder, new)
        _put_in_place(new, folder)


def check_folder(folder: str | os.PathLike, *, accepts_content: bool = False) -> None:
    """FileExistsError unless `folder` can be written: new, empty, or (`accepts_content`) any folder, and no file is in
    the place of a folder above it. OSError where that is not permitted."""
    folder = Path(folder)
    nearest = next((place for place in (folder, *folder.parents) if place.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise FileExistsError(f"folder: {nearest} is a file; accepted is a folder")
    if nearest is not None and not os.access(nearest, os.W_OK | os.X_OK):
        raise OSError(f"folder: {folder} cannot be written: there is no permission to write into {nearest}")
    if not accepts_content and folder.exists() and (names := sorted(os.listdir(folder))):
        raise FileExistsError(f"folder: {folder} is not empty: it holds {names[0]}. Name a new or an empty one")


def move_into(new: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Move everything in the folder `new` into `folder` (of the same file system): each file and each folder whole.

    What has the same name is replaced, the rest stays.
    """
    new, folder = Path(new).resolve(), Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(new.iterdir()):
        if path.is_dir() and not path.is_symlink():
            _put_in_place(path, folder / path.name)
        else:
            os.replace(path, folder / path.name)


def _keep(old: Path, new: Path, replaces: Callable[[str, Path], bool], inside: str = "") -> None:
    """Give `new` what is not ours in `old`, by hard links: until the folders change places both have it."""
    for path in sorted(old.iterdir()):
        name, target = inside + path.name, new / path.name
        if path.is_dir() and not path.is_symlink():
            if target.exists() and not target.is_dir():
                raise FileExistsError(f"{path} is a folder, and a file of this name is to be written")
            made = not target.exists()
            if made:
                target.mkdir()
            _keep(path, target, replaces, f"{name}/")
            if made and any(path.iterdir()) and not any(target.iterdir()):
                target.rmdir()  # all in it was ours
            elif made:
                shutil.copystat(path, target)
        elif os.path.lexists(target):
            if target.is_dir():
                raise FileExistsError(f"{path} is a file, and a folder of this name is to be written")
        elif not replaces(name, path):
            try:
                os.link(path, target, follow_symlinks=False)
            except OSError:  # no hard links on this file system
                shutil.copy2(path, target, follow_symlinks=False)


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; what was there goes, and is back after an error."""
    if not folder.exists():
        os.rename(new, folder)
        return
    if _exchange(new, folder):
        shutil.rmtree(new, ignore_errors=True)
        return
    # The next best: for a moment the old folder has another name, under which `_tidy` finds it.
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
    lock = _lock(folder)
    try:
        os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    finally:
        _close(lock)


def _exchange(a: Path, b: Path) -> bool:
    """Let two names change places in one step; False where the system or the file system cannot."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(os.fsencode(a), os.fsencode(b), 2)  # RENAME_SWAP
        else:
            failed = libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2)  # AT_FDCWD, RENAME_EXCHANGE
    except (AttributeError, OSError, TypeError):
        return False
    return not failed


def _tidy(folder: Path) -> None:
    """Clear away what killed writers of `folder` have left beside it, and undo a replacement broken off half-way."""
    left = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.(tmp|old)")
    for path in sorted(folder.parent.iterdir()):
        if not (match := left.fullmatch(path.name)) or path.is_symlink() or not path.is_dir():
            continue
        lock = _lock(path)
        if lock is None:
            logger.warning(
                "%s is of another process that writes %s. If none is running, it was killed: %s.",
                *(path, folder, "rename it back" if match[1] == "old" and not folder.exists() else "delete it"),
            )
            continue
        if match[1] == "old" and not folder.exists():
            os.rename(path, folder)
            logger.warning("%s is back: the process that was replacing it has been killed.", folder)
        else:
            shutil.rmtree(path, ignore_errors=True)
        _close(lock)


def _lock(folder: Path) -> int | None:
    """A lock on a folder, which ends with the process; None where somebody else has it or there are no locks."""
    if fcntl is None:
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
