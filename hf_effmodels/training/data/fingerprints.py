"""A short name for what a data set holds, by which results that were measured on it are known again."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

#: Samples that are looked at; of more, so many evenly spread ones.
MOST_SAMPLES = 1024


def fingerprint(dataset: Sequence) -> str:
    """Hexadecimal digits of the number of samples and their content, of large data sets of `MOST_SAMPLES` of them.

    Args:
        dataset: map-style: samples 0 to n - 1: texts, numbers, arrays, tensors, or mappings or lists of these.
    """
    size = len(dataset)
    digest = hashlib.sha256(str(size).encode())
    for index in np.unique(np.linspace(0, size - 1, min(size, MOST_SAMPLES)).round().astype(np.int64)).tolist():
        _add(digest, dataset[index])
    return digest.hexdigest()[:32]


def _add(digest, value) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            digest.update(f"{name}:".encode())
            _add(digest, value[name])
    elif isinstance(value, (str, bytes)) or value is None:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
    else:
        array = np.asarray(value)
        if array.dtype == object:
            for part in value:
                _add(digest, part)
            return
        digest.update(f"{array.shape}".encode())
        # Lists and tensors of the same whole numbers are the same.
        digest.update((array.astype(np.int64) if array.dtype.kind in "biu" else array).tobytes())
