"""What a teacher said of every training picture, stored once: a table that `datasets` reads, one row for each picture
and epoch, and the settings that its pictures were augmented by (TinyViT, https://arxiv.org/abs/2207.10666,
section 3.1).

The random numbers of a picture follow from the seed of the data, the epoch and the picture's number alone
(`SeededDataset`), so that training with the same settings shows the student, bit for bit, what the teacher saw.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from .stored_tables import read_table

#: In the folder, beside `data/`: what the table was made by.
SETTINGS_FILE = "soft_labels.json"
#: Columns: the picture's own random number, the classes by falling probability, and these probabilities, or the logits
#: themselves where those of all classes are kept in float32: training is then what it is with the teacher, to the bit.
SEED, IDS, PROBABILITIES, LOGITS = "seed", "ids", "probabilities", "logits"
#: Pictures that are compared bit for bit before training.
_COMPARED = 16
#: The least probability: its logarithm is finite.
_LEAST = torch.finfo(torch.float32).tiny


class StoredLabels:
    """The stored words of a teacher, in the place of one.

    Args:
        folder: what `hf-effmodels prepare soft-labels` has written.
        cache_dir: where `datasets` keeps the table to read from.

    Raises:
        ValueError: there are no stored labels. OSError: they cannot be read.
    """

    def __init__(self, folder: str | Path, cache_dir: str | None = None):
        self.folder = Path(folder)
        self.settings, table = read_table(
            folder, SETTINGS_FILE, argument="--stored_labels", made_by="soft-labels", cache_dir=cache_dir
        )
        self.table = table.with_format("numpy")
        self.num_classes = len(self.settings["classes"])
        self.samples, self.epochs = self.settings["samples"], self.settings["epochs"]
        if len(table) != self.samples * self.epochs:
            raise ValueError(
                f"--stored_labels: {folder} has {len(table)} rows, expected {self.samples * self.epochs}: "
                f"{self.samples} pictures of {self.epochs} epochs."
            )

    def check(self, settings: Mapping, dataset: Sequence, epochs: int) -> None:
        """ValueError unless a training with these settings (`settings_of`) shows the pictures that the teacher saw,
        for as many epochs at most."""
        for name, expected in settings.items():
            stored = self.settings.get(name)
            if isinstance(expected, Mapping) and isinstance(stored, Mapping):
                for key in {**expected, **stored}:
                    _compare(f"{name}.{key}", stored.get(key), expected.get(key))
            else:
                _compare(name, stored, expected)
        if epochs > self.epochs:
            raise ValueError(f"--stored_labels: they are of {self.epochs} epochs, the training has {epochs}.")
        if digest_of(dataset, self.epochs) != self.settings["pictures"]:
            raise ValueError(
                "--stored_labels: the augmented pictures are not those that the teacher saw: another data set, image "
                "processor or version of a library that reads or resizes pictures."
            )

    def logits(self, epoch: int, index: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """The logits (batch, classes), or logarithms of the probabilities, which stand for them.

        Args:
            epoch: from 0.
            index: numbers of the pictures in the training set, (batch,).
            seeds: their own random numbers, (batch,): they tell whether these are the rows.
        """
        rows = self.table[(epoch * self.samples + index.cpu().numpy()).tolist()]
        if not np.array_equal(rows[SEED], seeds.cpu().numpy()):
            raise ValueError(f"--stored_labels: the pictures of epoch {epoch} were augmented by other seeds.")
        ids = torch.from_numpy(np.asarray(rows[IDS], dtype=np.int64))
        if LOGITS in rows:
            values = torch.from_numpy(np.asarray(rows[LOGITS], dtype=np.float32))
            return torch.empty_like(values).scatter_(1, ids, values).to(index.device)
        probabilities = torch.from_numpy(np.asarray(rows[PROBABILITIES], dtype=np.float32))
        missing = self.num_classes - ids.shape[1]
        rest = (1 - probabilities.sum(1, keepdim=True)) / max(missing, 1)
        dense = rest.repeat(1, self.num_classes).scatter_(1, ids, probabilities)
        return dense.clamp_(min=_LEAST).log_().to(index.device)


def settings_of(*, seed: int, samples: int, classes: Sequence[str], augmentation: Mapping) -> dict:
    """What has to be the same when stored labels are made and when they are used."""
    settings = {"seed": seed, "samples": samples, "classes": list(classes), "augmentation": dict(augmentation)}
    return json.loads(json.dumps(settings))


def digest_of(dataset: Sequence, epochs: int) -> str:
    """Of some augmented pictures of a training set, all over the epochs."""
    digest = hashlib.sha256()
    last = epochs * len(dataset) - 1
    for number in np.unique(np.linspace(0, last, min(last + 1, _COMPARED)).round().astype(np.int64)).tolist():
        digest.update(dataset[number]["pixel_values"].contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _compare(name: str, stored, expected) -> None:
    if stored != expected:
        raise ValueError(f"--stored_labels: they are of another {name}: {_short(stored)}, not {_short(expected)}.")


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
