"""Which token ids of a larger vocabulary a smaller one has kept."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..._files import write_json


@dataclass(frozen=True)
class IdMap:
    """The new id of a kept token is its rank among the kept ones.

    Attributes:
        kept: old ids, ascending; `kept[new]` is the old id.
        old_size: size of the old vocabulary (its largest id + 1).
    """

    kept: tuple[int, ...]
    old_size: int

    @classmethod
    def of(cls, kept: Iterable[int], old_size: int) -> "IdMap":
        return cls(tuple(sorted(map(int, kept))), int(old_size))

    def __post_init__(self):
        ascending = all(a < b for a, b in zip(self.kept, self.kept[1:], strict=False))
        if not self.kept or not ascending or self.kept[0] < 0 or self.kept[-1] >= self.old_size:
            raise ValueError(f"kept: accepted are ascending ids from 0 to {self.old_size - 1}, at least one.")

    def __len__(self) -> int:
        return len(self.kept)

    def new_ids(self) -> np.ndarray:
        """(old_size,) int64: the new id of each old one, -1 where it is gone."""
        table = np.full(self.old_size, -1, np.int64)
        table[list(self.kept)] = np.arange(len(self.kept))
        return table

    def save(self, file: str | Path) -> None:
        """Write a JSON file for `load`."""
        write_json(file, {"old_size": self.old_size, "kept": self.kept}, indent=None)

    @classmethod
    def load(cls, file: str | Path) -> "IdMap":
        """Raises ValueError for a file that `save` has not written."""
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
            return cls(tuple(map(int, content["kept"])), int(content["old_size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: this is not a map of token ids ({error}).") from None
