"""While training goes on without data, nobody opens any: a file that is opened for reading ends the run."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

_CLOSED: ContextVar[bool] = ContextVar("_CLOSED", default=False)
#: What a program reads of itself at any time: code, compiled code, and what packages say about themselves.
_CODE = re.compile(r"\.(py|pyc|pyi|pyd|dll|dylib|so(\.\d+)*|h|hpp|cuh|c|cc|cpp|cu|ptx|cubin|hsaco|o|a)$")
_METADATA = re.compile(r"\.(dist|egg)-info[/\\][^/\\]+$")
#: What the system tells of itself, by files that lie on no disk.
_SYSTEM = ("/proc/", "/sys/", "/dev/")


class DataReadError(RuntimeError):
    """Something was going to be read where nothing is to be."""


@contextmanager
def closed_to_data() -> Iterator[None]:
    """Within it, in this thread, no file may be opened for reading but code; `refuse_reading` raises, too.

    Raises:
        DataReadError: a file was going to be opened, whoever does it.
    """
    _install()
    token = _CLOSED.set(True)
    try:
        yield
    finally:
        _CLOSED.reset(token)


def refuse_reading(what: str) -> None:
    """To be called by whatever hands out data that is open already.

    Args:
        what: for the message.

    Raises:
        DataReadError: within `closed_to_data`.
    """
    if _CLOSED.get():
        raise DataReadError(f"training without data was going to read {what}; nothing of it is read.")


@cache
def _install() -> None:
    # There is no way to remove it again. Outside of `closed_to_data` it does nothing.
    sys.addaudithook(_watch)


def _watch(event: str, args: tuple) -> None:
    if event != "open" or not _CLOSED.get():
        return
    path, mode, flags = args
    if isinstance(path, int) or not _reads(mode, flags):
        return
    name = os.fsdecode(path)
    if _CODE.search(name) or _METADATA.search(name) or name.startswith(_SYSTEM) or _is_cached(name):
        return
    raise DataReadError(f"training without data was going to open {name}; nothing is read while it goes on.")


def _reads(mode: str | None, flags: int) -> bool:
    if isinstance(mode, str):
        return "r" in mode or "+" in mode
    return flags & (os.O_WRONLY | os.O_RDWR) != os.O_WRONLY


def _is_cached(name: str) -> bool:
    """Whether it is one of the files in which compilers keep their results."""
    folders = [os.environ.get(variable) for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")]
    folders += [str(Path.home() / ".triton"), str(Path.home() / ".cache" / "torch" / "kernels")]
    path = os.path.abspath(name)
    in_own = any(folder and path.startswith(os.path.join(os.path.abspath(folder), "")) for folder in folders)
    return in_own or "torchinductor_" in path
