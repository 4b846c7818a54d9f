"""One run at a time writes into an output folder: its main process keeps a file there that says whose folder it is."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

#: In an output folder, while a run writes into it.
LOCK_FILE = ".run-lock.json"
# Other machines cannot ask whether the owner lives: it shows that by the age of its file.
_SECONDS_BETWEEN_SIGNS = 10
_SECONDS_TO_BELIEVE = 90


def owner_of(folder: Path) -> str | None:
    """The living run that writes into `folder`, in words; None where there is none."""
    file = folder / LOCK_FILE
    owner = _read(file)
    return _in_words(owner) if owner is not None and _lives(owner, file) else None


class LockedError(ValueError):
    """Another run writes into the output folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While this process writes into `folder`, no other run does. What a killed run has left is taken over.

    Raises:
        ValueError: another run has it, on this machine or on another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, own = folder / LOCK_FILE, {"pid": os.getpid(), "host": _host(), "started": _started(os.getpid())}
    _acquire(file, own)
    ended = threading.Event()
    threading.Thread(target=_give_signs, args=(file, own, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if _read(file) == own:
            file.unlink(missing_ok=True)


def _acquire(file: Path, own: dict) -> None:
    while not _create(file, own):
        owner = _read(file)
        if owner is not None and _lives(owner, file):
            raise LockedError(
                f"--output_dir: {_in_words(owner)} is writing into {file.parent}. Wait for its end, or choose another "
                "folder."
            )
        # Two runs may find it at the same time: only one of them can rename it, and it looks at what it has got.
        grave = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            file.rename(grave)
        except FileNotFoundError:
            continue
        if _read(grave) != owner:
            grave.rename(file)
            continue
        grave.unlink()


def _create(file: Path, own: dict) -> bool:
    """Whether the file was not there, and is now, whole."""
    new = file.with_name(f"{file.name}.new-{os.getpid()}")
    new.write_text(json.dumps(own), encoding="utf-8")
    try:
        os.link(new, file)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with open(file, "x", encoding="utf-8") as opened:
                json.dump(own, opened)
        except FileExistsError:
            return False
    finally:
        new.unlink()
    return True


def _read(file: Path) -> dict | None:
    """What a lock says; an empty mapping where it says nothing, None where there is none."""
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _lives(owner: dict, file: Path) -> bool:
    if owner.get("host") == _host() and isinstance(owner.get("pid"), int):
        started = _started(owner["pid"])
        return started is not None and abs(started - owner.get("started", 0)) < 5
    try:
        return _now(file.parent) - file.stat().st_mtime < _SECONDS_TO_BELIEVE
    except FileNotFoundError:
        return False


def _started(pid: int) -> float | None:
    """When a process of this machine was started, None where it has ended (or waits to be buried)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.Error, ValueError, OverflowError):
        return None


def _host() -> str:
    """The machine, and the container where processes have numbers of their own."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _now(folder: Path) -> float:
    """The time by the clock of the folder's file system, which may be another machine's."""
    probe = folder / f"{LOCK_FILE}.time-{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


def _give_signs(file: Path, own: dict, ended: threading.Event) -> None:
    while not ended.wait(_SECONDS_BETWEEN_SIGNS):
        if _read(file) == own:
            os.utime(file)


def _in_words(owner: dict) -> str:
    if not owner:
        return "a run that has not said its name"
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(owner.get("started", 0)))
    return f"the run of process {owner.get('pid')} on {str(owner.get('host')).split(' ')[0]}, started {started},"
