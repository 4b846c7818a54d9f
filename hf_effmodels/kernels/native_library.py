"""Compile `kernels.c` once, into the user's cache, and load it.

Nothing is compiled at import. The library is named by a checksum of source, compiler and options, so another version
never meets an old file; it is written whole under another name first, in a folder that nobody else may write to.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.c")
#: "off" computes everything with torch's operators; any other value is a mistake.
SWITCH = "HF_EFFMODELS_KERNELS"
#: -ffp-contract=off: roundings are those of the written expression, on every instruction set.
OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi")
#: Seconds after which a compiler is given up.
PATIENCE = 120


def cache_folder() -> Path:
    """Where compiled kernels are kept: `$XDG_CACHE_HOME/hf_effmodels/kernels`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_effmodels" / "kernels"


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be had, which one line in the log says."""
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise ValueError(f"{SWITCH}: got {switch!r}, accepted are 'on', 'off'.")
    try:
        if switch == "off":
            raise OSError(f"{SWITCH} is off")
        return ctypes.CDLL(str(compiled(cache_folder())))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        logger.warning("No native kernels, torch's operators compute the same more slowly: %s.", error)
        return None


def compiled(folder: Path) -> Path:
    """The library in `folder`, compiled if it is not there yet.

    Raises:
        OSError: no source, no compiler, one that fails, or a folder that others may write to.
    """
    if not SOURCE.exists():  # the code of a model from the Hub, by itself
        raise OSError("their source is a part of hf_effmodels, which this is not")
    compiler = _compiler()
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=PATIENCE, check=True).stdout
    parts = (SOURCE.read_bytes(), version, platform.machine().encode(), " ".join((*compiler[1:], *OPTIONS)).encode())
    name = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    path = folder / f"kernels-{name}.so"
    _make_private(folder)
    if not path.exists():
        _compile(compiler, path)
    elif path.stat().st_uid != os.getuid():
        raise OSError(f"{path} belongs to somebody else")
    return path


def _compiler() -> list[str]:
    """The program and what it is always called with, as `CC` says it: `ccache gcc`, `gcc -m64`."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise OSError(f"there is no C compiler (CC: got {os.environ['CC']!r}: {error})") from error
    for candidate in named[:1] or ("cc", "gcc", "clang"):
        if (found := shutil.which(candidate)) is not None:
            return [found, *named[1:]]
    raise OSError(f"there is no C compiler ({' '.join(named) or 'cc, gcc, clang'})")


def _make_private(folder: Path) -> None:
    if not hasattr(os, "getuid"):
        raise OSError(f"native kernels are not built on {platform.system()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{folder} belongs to somebody else, or others may write to it")


def _compile(compiler: list[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder, path.name)
        # With OpenMP where the compiler has it (torch and we then share one pool of threads), else in one thread.
        for threads in (["-fopenmp"], []):
            command = [*compiler, *OPTIONS, *threads, str(SOURCE), "-o", str(new)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
            if done.returncode == 0:
                os.replace(new, path)
                return
    raise OSError(f"{' '.join(compiler)} failed: {done.stderr.strip()[:500]}")


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there are native kernels."""
    return library() is not None


def level() -> int:
    """The best instruction set of this processor: 0 portable, 1 popcnt, 2 AVX2 or NEON, 3 AVX-512 VPOPCNTDQ."""
    return library().effmodels_best_level()


def check(status: int) -> None:
    if status:
        raise MemoryError("native kernels: no memory.")
