"""The records in which TinyViT's code stores soft labels (https://arxiv.org/abs/2207.10666, section 3.1).

A record is the augmentation's seed, then K class ids by falling probability, then their K probabilities: little endian
int32, int16 and float16, 4 + 4 K bytes.
"""

from collections.abc import Sequence

import numpy as np

_LARGEST_ID = np.iinfo(np.int16).max


def record_type(num_stored: int) -> np.dtype:
    """The type of a record with `num_stored` classes."""
    return np.dtype([("seed", "<i4"), ("ids", "<i2", (num_stored,)), ("probabilities", "<f2", (num_stored,))])


def encode_records(seeds: Sequence[int], ids: np.ndarray, probabilities: np.ndarray) -> list[bytes]:
    """One record per sample.

    Args:
        seeds: of the augmentation, (batch,), from 0 to below 2³¹.
        ids: (batch, K), each up to 32767.
        probabilities: (batch, K); they are rounded to float16.
    """
    if ids.shape != probabilities.shape or ids.ndim != 2 or len(ids) != len(seeds) or not len(ids):
        raise ValueError(
            f"ids: got shape {ids.shape}, probabilities {np.shape(probabilities)} and {len(seeds)} seeds; accepted "
            "are (batch, K) for both, and a seed for each row."
        )
    if not np.issubdtype(ids.dtype, np.integer) or not np.isfinite(probabilities).all():
        raise ValueError("ids: accepted are whole numbers, with finite probabilities.")
    if np.max(ids) > _LARGEST_ID or np.min(ids) < 0:
        raise ValueError(f"ids: got {int(np.max(ids))}, the format has room for classes from 0 to {_LARGEST_ID}.")
    if not all(0 <= int(seed) < 2**31 for seed in seeds):
        raise ValueError("seeds: accepted are whole numbers from 0 to below 2^31.")
    records = np.empty(len(seeds), dtype=record_type(ids.shape[1]))
    records["seed"], records["ids"], records["probabilities"] = seeds, ids, probabilities
    return [record.tobytes() for record in records]


def decode_records(data: bytes, num_stored: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seeds (batch,), ids (batch, K) and probabilities (batch, K) of records that follow one another.

    Raises:
        ValueError: the length is not that of whole records.
    """
    kind = record_type(num_stored)
    if len(data) % kind.itemsize:
        raise ValueError(f"soft labels: {len(data)} bytes are no whole records of {kind.itemsize} ({num_stored} ids).")
    records = np.frombuffer(data, dtype=kind)
    return records["seed"].astype(np.int64), records["ids"].astype(np.int64), records["probabilities"]
