"""Labelled pictures from anywhere `datasets` reads, checked before training starts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ...data.images import read_image
from ...data.splits import Column, find_column, load_splits, pick_split
from ...run.arguments import SourceArguments
from .mixing import SAMPLE_SEED

logger = logging.getLogger(__name__)

_EVAL_SPLITS = ("validation", "valid", "val", "test")
_SHOWN = 20


@dataclass
class DataArguments(SourceArguments):
    """Which pictures."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A data set on the Hub, a local folder, a format with data_files or data_dir (imagefolder, "
            "parquet, ...), or digits (1797 handwritten digits that come with scikit-learn)."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the pictures; by default the only one of that type."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels; by default the only one with class names, or 'label'."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(
        default=None, metadata={"help": f"Split to evaluate on; by default the first of {', '.join(_EVAL_SPLITS)}."}
    )
    eval_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate on this share of the training split, drawn per class and always the same (and not "
            "trained on). 0.1 where there is no split to evaluate on."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use that many, evenly spread."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use that many, evenly spread."})

    def __post_init__(self):
        if not self.dataset:
            raise ValueError("--dataset is missing: name a data set on the Hub, a folder, imagefolder, or digits.")
        super().__post_init__()
        if self.eval_fraction is not None and not 0 < self.eval_fraction < 1:
            raise ValueError(f"--eval_fraction: got {self.eval_fraction}, accepted are numbers between 0 and 1.")
        if self.eval_fraction is not None and self.eval_split is not None:
            raise ValueError("--eval_fraction and --eval_split exclude each other.")
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")


@dataclass(frozen=True)
class LabelledImages:
    """Pictures and their classes.

    Attributes:
        images: whatever `read_image` takes, by number.
        labels: class of each, int64.
        names: of the classes, None where the data set has only numbers.
        split: where they come from, for messages.
        rows: number of each picture in that split.
    """

    images: Sequence
    labels: np.ndarray
    names: list[str] | None
    split: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, chosen: np.ndarray) -> "LabelledImages":
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])

    def evenly(self, limit: int | None) -> "LabelledImages":
        """At most `limit` of them, evenly spread: folders come sorted by class."""
        if limit is None or limit >= len(self):
            return self
        return self.select(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))


class ImageClassificationDataset(Dataset):
    """Samples `{"pixel_values": (channels, height, width) tensor, "labels": int}`.

    With a seed it is a training set: sample number e * n + i (see `EpochSampler`) is picture i with the random
    numbers of (seed, e, i), and carries one of them for what mixes samples.
    """

    def __init__(self, source: LabelledImages, transform, num_channels: int, seed: int | None = None):
        self.source = source
        self.transform = transform
        self.num_channels = num_channels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor | int]:
        epoch, index = divmod(number, len(self.source))
        image = self._read(index)
        sample = {"labels": int(self.source.labels[index])}
        if self.seed is None:
            sample["pixel_values"] = self.transform(image)
        else:
            rng = np.random.default_rng((self.seed, epoch, index))
            sample[SAMPLE_SEED] = int(rng.integers(2**32))
            sample["pixel_values"] = self.transform(image, rng)
        return sample

    def _read(self, index: int) -> Image.Image:
        row = int(self.source.rows[index])
        try:
            return read_image(self.source.images[row], self.num_channels)
        except (ValueError, OSError) as error:
            raise type(error)(f"row {row} of {self.source.split}: {error}") from error


def load_data(args: DataArguments, token: str | None = None) -> tuple[LabelledImages, LabelledImages]:
    """The training and the evaluation pictures.

    Raises:
        ValueError: missing splits or columns (with those there are), labels that are none, nothing to train on.
        OSError: a data set that cannot be found or reached.
    """
    splits = load_image_splits(args, token)
    train = _labelled(
        pick_split(splits, "--train_split", args.train_split), args, f"{args.dataset}/{args.train_split}"
    )
    eval_split = args.eval_split or next((name for name in _EVAL_SPLITS if name in splits), None)
    if args.eval_fraction is not None or eval_split is None:
        fraction = args.eval_fraction or 0.1
        logger.info("evaluating on %g per cent of %s", 100 * fraction, train.split)
        held_out = stratified_sample(train.labels, fraction)
        evaluation = replace(train.select(held_out), split=f"{train.split} (held out)")
        train = train.select(~held_out)
    else:
        evaluation = _labelled(pick_split(splits, "--eval_split", eval_split), args, f"{args.dataset}/{eval_split}")
    evaluation = _with_names_of(train, evaluation)
    train, evaluation = train.evenly(args.max_train_samples), evaluation.evenly(args.max_eval_samples)
    for source in (train, evaluation):
        if not len(source):
            raise ValueError(f"{source.split} is empty.")
    return train, evaluation


def load_evaluation_data(args: DataArguments, token: str | None = None) -> LabelledImages:
    """The evaluation pictures alone; raises as `load_data`."""
    splits = load_image_splits(args, token)
    name = args.eval_split or next((name for name in _EVAL_SPLITS if name in splits), None)
    if name is None:
        raise ValueError(f"--eval_split: name one of the splits of {args.dataset}, which are {', '.join(splits)}.")
    source = _labelled(pick_split(splits, "--eval_split", name), args, f"{args.dataset}/{name}")
    if not len(source):
        raise ValueError(f"{source.split} is empty.")
    return source.evenly(args.max_eval_samples)


def stratified_sample(labels: np.ndarray, fraction: float) -> np.ndarray:
    """A mask of about `fraction` of each class, the same in every run: at least one of a class of two or more."""
    rng = np.random.default_rng(0)
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        number = min(len(members) - 1, max(1, round(fraction * len(members))))
        mask[rng.permutation(members)[:number]] = True
    return mask


def load_image_splits(args, token: str | None) -> dict:
    """As `load_splits`, and the built-in digits."""
    return _load_digits() if args.dataset == "digits" else load_splits(args, token)


def _load_digits() -> dict[str, list[dict]]:
    """The 8x8 gray digits of scikit-learn as 8-bit images; a fifth of each class is the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    values = np.round(digits.images * (255 / 16)).astype(np.uint8)
    names = [str(number) for number in digits.target_names]
    rows = [
        {"image": Image.fromarray(value), "label": names[label]}
        for value, label in zip(values, digits.target, strict=True)
    ]
    test = stratified_sample(digits.target, 0.2)
    return {
        "train": [row for row, held_out in zip(rows, test, strict=True) if not held_out],
        "test": [row for row, held_out in zip(rows, test, strict=True) if held_out],
    }


def _labelled(rows, args: DataArguments, split: str) -> LabelledImages:
    if isinstance(rows, list):
        labels, names = _numbered([row["label"] for row in rows], "label", split)
        return LabelledImages([row["image"] for row in rows], labels, names, split, np.arange(len(rows)))
    import datasets

    features = rows.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    image_column = find_column("image_column", args.image_column, images, ("image", "img"), features)
    label_column = find_column("label_column", args.label_column, classes, ("label", "labels"), features)
    if isinstance(features[image_column], datasets.Image):
        # Undecoded, so that what is wrong with a picture can be said with the row it stands in.
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    labels, names = _numbered(rows[label_column][:], label_column, split)
    if isinstance(features[label_column], datasets.ClassLabel):
        names = list(features[label_column].names)
    images = Column(rows.select_columns(image_column), image_column)
    source = LabelledImages(images, labels, names, split, np.arange(len(labels)))
    check_labels(source, len(names) if names else None)
    return source


def _numbered(values: Sequence, column: str, split: str) -> tuple[np.ndarray, list[str] | None]:
    """Class numbers, and the names where the values are texts (sorted)."""
    values = list(values)
    if all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        numbers = {name: number for number, name in enumerate(names)}
        return np.asarray([numbers[value] for value in values], dtype=np.int64), names
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(
                f"row {row} of {split}: column {column!r} holds {value!r}, accepted is one class per image, a whole "
                "number or a text (and the same throughout)."
            )
    return np.asarray(values, dtype=np.int64), None


def check_labels(source: LabelledImages, count: int | None) -> None:
    """ValueError unless all labels lie in [0, `count`), None standing for no upper end."""
    labels = source.labels
    wrong = np.flatnonzero((labels < 0) | (labels >= (np.inf if count is None else count)))
    if len(wrong):
        first = labels[wrong[0]]
        accepted = f"0 to {count - 1}" if count else "whole numbers from 0"
        hint = " (-1 marks a split without labels)" if first == -1 else ""
        raise ValueError(
            f"row {source.rows[wrong[0]]} of {source.split} has the label {first}{hint}, accepted are {accepted}. "
            f"{len(wrong)} of {len(labels)} labels are out of range."
        )


def _with_names_of(train: LabelledImages, evaluation: LabelledImages) -> LabelledImages:
    """The evaluation pictures with the training set's numbering of the classes."""
    if train.names == evaluation.names:
        return evaluation
    if train.names is None or evaluation.names is None:
        raise ValueError(f"{train.split} and {evaluation.split} disagree: only one of them has class names.")
    unknown = [name for name in evaluation.names if name not in train.names]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        raise ValueError(f"{evaluation.split} has classes that {train.split} lacks: {shown}.")
    return renumber(evaluation, train.names)


def renumber(source: LabelledImages, names: Sequence[str]) -> LabelledImages:
    """The same pictures with classes numbered as in `names`, which has all of theirs."""
    position = {name: number for number, name in enumerate(names)}
    table = np.asarray([position[name] for name in source.names], dtype=np.int64)
    return replace(source, labels=table[source.labels], names=list(names))
