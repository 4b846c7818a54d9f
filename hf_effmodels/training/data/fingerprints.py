"""A short name for what a data set or a model holds, by which it is known again."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

#: Samples that are looked at; of more, so many evenly spread ones.
MOST_SAMPLES = 1024
#: Numbers of a weight that are looked at.
MOST_NUMBERS = 1024
_WHOLE_FILE, _PIECE = 2**20, 2**16


def fingerprint(dataset: Sequence) -> str:
    """Hexadecimal digits of the number of samples and their content, of large data sets of `MOST_SAMPLES` of them.

    Args:
        dataset: map-style: samples 0 to n - 1: texts, numbers, arrays, tensors, files (`Path`, for what is in them),
            or mappings or lists of these.
    """
    size = len(dataset)
    digest = hashlib.sha256(str(size).encode())
    for index in np.unique(np.linspace(0, size - 1, min(size, MOST_SAMPLES)).round().astype(np.int64)).tolist():
        _add(digest, dataset[index])
    return digest.hexdigest()[:32]


def facts(samples: int, **parts: Callable[[int], object]) -> dict[str, int | str]:
    """The number of samples, and of each part of them a fingerprint: `parts` give that of sample i."""
    return {"samples": samples} | {name: fingerprint(_Part(samples, get))[:16] for name, get in parts.items()}


def picture(value):
    """What stands for a picture in a fingerprint, of whatever `read_image` takes: what is in its file, undecoded."""
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    return Path(value) if isinstance(value, str | os.PathLike) else value


def weights_fingerprint(model, which: Callable[[str, object], bool] = lambda name, weight: True) -> dict[str, str]:
    """`{"weights": ...}`: of the names, shapes, and `MOST_NUMBERS` evenly spread numbers of each parameter and buffer.

    Args:
        model: a network; empty is returned where weights are not all here, as when they are sharded.
        which: takes name and tensor of those that count.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict(keep_vars=True).items()):
        if not hasattr(weight, "is_meta") or not which(name, weight):  # some modules keep other things in their state
            continue
        is_sharded = not weight.numel() and hasattr(weight, "ds_id")  # DeepSpeed leaves an empty one here
        if weight.is_meta or is_sharded:
            return {}
        flat = weight.detach().reshape(-1)
        spread = flat[:: max(1, flat.numel() // MOST_NUMBERS)].cpu()  # none of an empty weight, which some models have
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        _add(digest, spread.double() if spread.is_floating_point() else spread.long())
    return {"weights": digest.hexdigest()[:16]}


class _Part:
    def __init__(self, samples: int, get: Callable[[int], object]):
        self.samples, self.get = samples, get

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int):
        return self.get(index)


def _file(path: Path) -> list:
    """Size and content of a file; of a large one its beginning, middle and end."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as opened:
            if size <= _WHOLE_FILE:
                return [size, opened.read()]
            pieces = []
            for start in (0, size // 2, size - _PIECE):
                opened.seek(start)
                pieces.append(opened.read(_PIECE))
            return [size, *pieces]
    except OSError:
        return ["cannot be read"]  # said where it is used


def _add(digest, value) -> None:
    if isinstance(value, Path):
        value = _file(value)
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            digest.update(f"{name}:".encode())
            _add(digest, value[name])
    elif isinstance(value, (str, bytes)) or value is None:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, list | tuple) and any(isinstance(part, str | bytes | Path) for part in value):
        for part in value:
            digest.update(b";")
            _add(digest, part)
    else:
        try:
            array = np.asarray(value)
        except ValueError:  # lists of several lengths
            array = None
        if array is None or array.dtype == object:
            for part in value:
                _add(digest, part)
            return
        digest.update(f"{array.shape}".encode())
        # Lists and tensors of the same whole numbers are the same.
        digest.update((array.astype(np.int64) if array.dtype.kind in "biu" else array).tobytes())
