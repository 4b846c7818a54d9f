"""Stored embeddings of texts, found by ids: what GPT4Image (https://arxiv.org/abs/2306.00693) aligns pictures with."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .fingerprints import fingerprint
from .stored_tables import read_table

#: In the folder, beside `data/`: what the table was made by.
SETTINGS_FILE = "text_embeddings.json"
#: Columns of the table.
ID, EMBEDDING = "id", "embedding"
#: Key of a sample's embedding.
TEXT_EMBEDS = "text_embeds"


class TextEmbeddings:
    """A table of embeddings.

    Args:
        folder: what `hf-effmodels prepare text-embeddings` has written.
        cache_dir: where `datasets` keeps the table to read from.

    Raises:
        ValueError: there are none. OSError: they cannot be read.
    """

    def __init__(self, folder: str | Path, cache_dir: str | None = None):
        self.folder = Path(folder)
        self.settings, table = read_table(
            folder, SETTINGS_FILE, argument="--text_embeddings", made_by="text-embeddings", cache_dir=cache_dir
        )
        if not {ID, EMBEDDING} <= set(table.column_names):
            columns = ", ".join(table.column_names)
            raise ValueError(f"--text_embeddings: {folder} has the columns {columns}, expected {ID} and {EMBEDDING}.")
        self.places = {name: place for place, name in enumerate(table[ID][:])}
        self.table = table.select_columns(EMBEDDING).with_format("numpy")

    def of(self, ids: Sequence[str], split: str):
        """A function from the number of a sample to its embedding, a vector in float32.

        Args:
            ids: of the samples, by number.
            split: where they are from, for messages.

        Raises:
            ValueError: a sample has none.
        """
        lacking = [name for name in ids if name not in self.places]
        if lacking:
            raise ValueError(
                f"--text_embeddings: {self.folder} has none for {lacking[0]!r} of {split}, nor for "
                f"{len(lacking) - 1} others; its ids are such as {', '.join(map(repr, [*self.places][:3]))}. "
                "--id_column names the column that holds the pictures' ids."
            )
        return partial(_vector, self.table, np.array([self.places[name] for name in ids]))

    def facts(self) -> dict[str, str]:
        """What is known again of them, see `data.fingerprints`."""
        spread = np.unique(np.linspace(0, len(self.places) - 1, 16).round().astype(np.int64)).tolist()
        rows = [self.table[place][EMBEDDING] for place in spread]
        return {"settings": fingerprint([self.settings])[:16], "embeddings": fingerprint(rows)[:16]}


def _vector(table, places: np.ndarray, index: int) -> torch.Tensor:
    return torch.from_numpy(np.array(table[int(places[index])][EMBEDDING], dtype=np.float32))
