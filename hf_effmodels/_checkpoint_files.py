"""Files of official checkpoints, looked at without torch: missing, truncated or damaged ones, and names of code."""

import functools
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path


def check_checkpoint(path: str | Path) -> None:
    """What can be said of a checkpoint's file before torch is there to read it.

    Raises:
        FileNotFoundError: there is no such file. OSError: it is a folder, truncated, damaged or of another kind.
        ValueError: it is an archive of other things, with Python objects in it that would run code.
    """
    path = check_file(path)
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        try:
            with safe_open(path, framework="numpy"):
                pass
        except Exception as error:  # what is thrown depends on where the file is broken
            raise not_safetensors(path, error) from None
        return
    check_archive(path)
    with open(path, "rb") as file:
        start = file.read(4)
    if start != _ZIP and start[:1] != pickle.PROTO:
        raise not_loaded(path)


def check_file(path: str | Path) -> Path:
    """OSError unless there is a file with something in it."""
    path = Path(path)
    if not path.is_file():
        if path.is_dir():
            raise IsADirectoryError(f"checkpoint: {path} is a folder, accepted is a file.")
        raise FileNotFoundError(f"checkpoint: there is no file {path}.")
    if path.stat().st_size == 0:
        raise OSError(f"checkpoint: {path} is truncated: it is empty.")
    return path


def not_safetensors(path: Path, error: Exception) -> OSError:
    """What is said of a file that cannot be read as safetensors."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return OSError(f"checkpoint: {path} is truncated or no safetensors file ({reason}).")


def not_loaded(path: Path) -> Exception:
    """What is said of a file that torch does not load: torch's own words advise to load it unsafely, and differ with
    where it is broken."""
    if names := foreign_names(path):
        return ValueError(
            f"checkpoint: {path} contains Python objects that would run code ({', '.join(names[:3])}); only "
            "tensors are read. Ask its author for a file of tensors, best as .safetensors."
        )
    return OSError(f"checkpoint: {path} is truncated, damaged or no PyTorch file.")


_ZIP = b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """OSError if a zip archive is truncated, damaged (its checksums tell) or not one that torch.save writes."""
    with open(path, "rb") as file:
        if file.read(4) != _ZIP:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if not any(re.fullmatch(r"[^/]+/data\.pkl", member.filename) for member in members):
                damaged = "an archive, but not one that torch.save writes (it has no data.pkl in a folder)"
                if names := foreign_names(path):
                    raise ValueError(
                        f"checkpoint: {path} contains Python objects that would run code ({', '.join(names[:3])}); "
                        "only tensors are read."
                    )
                raise OSError(f"checkpoint: {path} is {damaged}.")
        status = path.stat()
        if (broken := _broken_member(path.absolute(), status.st_size, status.st_mtime_ns)) is not None:
            raise OSError(f"checkpoint: {path} is damaged: the checksum of {broken} in it is wrong.")
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, zipfile.zlib.error):
        raise OSError(f"checkpoint: {path} is truncated or damaged: it begins as a file of torch.save.") from None


@functools.lru_cache(maxsize=16)
def _broken_member(path: Path, size: int, changed: int) -> str | None:
    """The first part of an archive whose checksum is wrong. A file that stays as it is is read for it once: it may be
    large, and is looked at before torch is there and when it is loaded."""
    with zipfile.ZipFile(path) as archive:
        has_checksums = any(member.CRC for member in archive.infolist() if member.file_size)
        return archive.testzip() if has_checksums else None


_HARMLESS = re.compile(
    r"torch\.(_utils|_tensor|storage|nn\.parameter)\.\w+"
    r"|torch\.(\w*Storage|\w*Tensor|device|dtype|Size|b?float\w*|u?int\d+|half|double|long|short|bool|complex\w+)"
    r"|collections\.OrderedDict|argparse\.Namespace|numpy\..*|_codecs\.encode"
)


def foreign_names(path: Path) -> list[str]:
    """Names of the Python objects that the pickles in a file refer to, those of weights apart; nothing is loaded."""
    names = {name: None for pickled in _pickles(path) for name in _names(pickled)}
    return [name for name in names if not _HARMLESS.fullmatch(name)]


def _pickles(path: Path) -> Iterator[bytes]:
    limit = 1 << 28  # pickles beside the tensors' own records are small
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size < limit and "/data/" not in member.filename:
                    try:
                        yield archive.read(member)
                    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, zipfile.zlib.error):
                        continue
    else:
        with open(path, "rb") as file:
            yield file.read(limit)


def _names(pickled: bytes) -> Iterator[str]:
    """`module.name` of every object that a pickle, or the first ones of several in a row, refers to."""
    start = 0
    while start < len(pickled):
        texts, memo = [], {}
        try:
            for operation, argument, position in pickletools.genops(pickled[start:]):
                name = operation.name
                if name in ("GLOBAL", "INST"):
                    yield argument.replace(" ", ".", 1)
                elif name == "STACK_GLOBAL" and len(texts) >= 2:
                    yield ".".join(texts[-2:])
                elif "UNICODE" in name or "STRING" in name:
                    texts.append(argument if isinstance(argument, str) else repr(argument))
                elif name in ("PUT", "BINPUT", "LONG_BINPUT") and texts:
                    memo[argument] = texts[-1]
                elif name == "MEMOIZE":
                    memo[len(memo)] = texts[-1] if texts else ""
                elif name in ("GET", "BINGET", "LONG_BINGET") and argument in memo:
                    texts.append(memo[argument])
                end = start + position + 1
        except (ValueError, IndexError, KeyError, UnicodeDecodeError, pickle.UnpicklingError):
            return
        start = end  # an operation has been read, or its bytes been refused
