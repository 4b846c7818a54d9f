"""Stored label maps: what a strong classifier says of each place of each training picture (ReLabel,
https://arxiv.org/abs/2101.05022, section 3.1), a table with a row for each picture.

A crop is labelled by the part of the map that it shows, so that nothing has to be replayed: the maps go with any
augmentation whose crops are known, and with any number of epochs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..losses.label_maps import pooled_targets
from .classes import model_classes
from .fingerprints import fingerprint, picture
from .pictures import Pictures
from .stored_tables import read_table

#: In the folder, beside `data/`: what the table was made by.
SETTINGS_FILE = "label_maps.json"
#: Columns: the picture's row in its split, what is known again of it, the largest logits of each place and their
#: classes, both (top_k, height, width).
ROW, PICTURE, SCORES, CLASSES = "row", "picture", "scores", "classes"
#: Pictures that are compared before training.
_COMPARED = 16


class LabelMaps:
    """The label maps of a training set.

    Args:
        folder: what `hf-effmodels prepare label-maps` has written.
        source: the pictures that are trained on.
        classes: names of the student's classes, by number.
        missing, temperature: see `losses.label_maps.pooled_targets`.
        cache_dir: where `datasets` keeps the table to read from.

    Raises:
        ValueError: there are none, they are of other pictures or of other classes. OSError: they cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        source: Pictures,
        classes: Sequence[str],
        *,
        missing: str = "zero",
        temperature: float = 1.0,
        cache_dir: str | None = None,
    ):
        self.settings, table = read_table(
            folder, SETTINGS_FILE, argument="--label_maps", made_by="label-maps", cache_dir=cache_dir
        )
        if not {ROW, PICTURE, SCORES, CLASSES} <= set(table.column_names):
            raise ValueError(f"--label_maps: {folder} has the columns {', '.join(table.column_names)}: no label maps.")
        self.missing, self.temperature, self.num_classes = missing, temperature, len(classes)
        self.shape = self.settings["top_k"], *self.settings["map_size"]
        try:
            self.renumbered = torch.tensor(model_classes(self.settings["classes"], classes))
        except ValueError:
            raise ValueError(
                f"--label_maps: their classes ({', '.join(self.settings['classes'][:10])}) are not the model's "
                f"({', '.join(classes[:10])})."
            ) from None
        rows = np.asarray(table.with_format("numpy")[ROW][:])
        order = np.argsort(rows)
        places = np.searchsorted(rows, source.rows, sorter=order).clip(max=max(len(rows) - 1, 0))
        lacking = source.rows[rows[order[places]] != source.rows] if len(rows) else source.rows
        if len(lacking):
            raise ValueError(
                f"--label_maps: {folder} has none of row {lacking[0]} of {source.split}, nor of {len(lacking) - 1} "
                "others: it was made of other samples or of another split."
            )
        #: Place in the table of each picture, by its number in the training set.
        self.places = order[places]
        known = table.select_columns(PICTURE)
        for index in np.unique(np.linspace(0, len(source) - 1, min(len(source), _COMPARED)).round().astype(np.int64)):
            row = int(source.rows[index])
            if known[int(self.places[index])][PICTURE] != picture_key(source.images[row]):
                raise ValueError(
                    f"--label_maps: {folder} was made of another picture than row {row} of {source.split}: of another "
                    "data set, or of another version of it."
                )
        self.table = table.select_columns([SCORES, CLASSES]).with_format("numpy")

    def target(self, index: int, box: Sequence[float]) -> torch.Tensor:
        """Probabilities (classes,) of a crop.

        Args:
            index: number of the picture in the training set.
            box: of the crop, as shares of the picture: (top, left, bottom, right).
        """
        row = self.table[int(self.places[index])]
        scores = torch.from_numpy(np.array(row[SCORES], dtype=np.float32)).view(1, *self.shape)
        classes = torch.from_numpy(np.array(row[CLASSES], dtype=np.int64)).view(1, *self.shape)
        return pooled_targets(
            scores,
            self.renumbered[classes],
            [box],
            self.num_classes,
            axis_order=self.settings["axis_order"],
            missing=self.missing,
            temperature=self.temperature,
        )[0]

    def facts(self) -> dict[str, str]:
        """What is known again of them, see `data.fingerprints`."""
        spread = np.unique(np.linspace(0, len(self.places) - 1, _COMPARED).round().astype(np.int64))
        rows = [self.table[int(self.places[index])][SCORES] for index in spread]
        return {"settings": fingerprint([self.settings])[:16], "maps": fingerprint(rows)[:16]}


def picture_key(value) -> str:
    """By which a picture is known again, of whatever `read_image` takes."""
    return fingerprint([picture(value)])[:16]
