"""Labelled pictures from anywhere `datasets` reads, checked before training starts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image

from ...data.classes import mapped_names, shown
from ...data.digits import load_image_splits
from ...data.errors import of_sample
from ...data.fingerprints import facts, fingerprint, picture
from ...data.images import ImageSplitArguments, read_for_stock_processor, where
from ...data.seeded import SeededDataset
from ...data.splits import (
    Column,
    evaluation_split,
    find_column,
    number_held_out,
    pick_split,
    stratified_choice,
    stratified_sample,
)
from ...run.arguments import read_mapping
from .mixing import INDEX, SAMPLE_SEED

# Each number up to the largest label is a class, with a name and weights.
_MOST_CLASSES = 1_000_000


@dataclass
class DataArguments(ImageSplitArguments):
    """Which pictures."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a data set on the Hub, a folder, imagefolder, or digits.",
            "help": "A data set on the Hub, a local folder, a format with data_files or data_dir (imagefolder, "
            "parquet, ...), or digits (1797 handwritten digits that come with scikit-learn).",
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the pictures; by default the only one of that type."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels; by default the only one with class names, or 'label'."}
    )
    label_mapping: dict | str | None = field(
        default=None,
        metadata={
            "help": "Other names for the data set's classes (or numbers), such as {tabby: cat, siamese: cat, 2: dog}: "
            "those of a trained model, or the same for several that become one."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.label_mapping = read_mapping("label_mapping", self.label_mapping, keys=(str, int))
        for name, new in self.label_mapping.items():
            if new is None or isinstance(new, dict | list):
                raise ValueError(f"--label_mapping: got {new!r} for {name}, accepted are names.")


@dataclass(frozen=True)
class LabelledImages:
    """Pictures and their classes.

    Attributes:
        images: whatever `images.read_image` takes, by number.
        labels: class of each, int64.
        names: of the classes, None where the data set has only numbers.
        split: where they come from, for messages.
        rows: number of each picture in that split.
        numbers: the different labels of the whole split, in order.
    """

    images: Sequence
    labels: np.ndarray
    names: list[str] | None
    split: str
    rows: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, num_channels: int) -> Image.Image:
        """Picture `index`; a ValueError or OSError that names its row and file if it cannot be read."""
        row = int(self.rows[index])
        value = self.images[row]
        try:
            return read_for_stock_processor(value, num_channels)
        except (ValueError, OSError) as error:
            raise of_sample(error, where(row, self.split, value)) from error

    def facts(self) -> dict[str, int | str]:
        """What is known again of them, see `data.fingerprints`."""
        every = fingerprint([self.names, self.labels])[:16]
        return facts(len(self), pictures=lambda index: picture(self.images[int(self.rows[index])])) | {"labels": every}

    def select(self, chosen: np.ndarray | list[int]) -> "LabelledImages":
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])

    def renumbered(self, table: Sequence[int], names: Sequence[str]) -> "LabelledImages":
        """The same pictures, those of class c now of class `table[c]`, under the new names."""
        table = np.asarray(table, dtype=np.int64)
        return replace(self, labels=table[self.labels], numbers=np.unique(table[self.numbers]), names=list(names))

    def evenly(self, limit: int | None) -> "LabelledImages":
        """At most `limit` of them, evenly spread: folders come sorted by class."""
        if limit is None or limit >= len(self):
            return self
        return self.select(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))


class ImageClassificationDataset(SeededDataset):
    """Samples `{"pixel_values": (channels, height, width) tensor, "labels": int}`.

    With a seed it is a training set, whose samples carry a random number of their own, for what mixes samples, and
    their number.
    """

    def __init__(self, source: LabelledImages, transform, num_channels: int, seed: int | None = None):
        super().__init__(seed)
        self.source = source
        self.transform = transform
        self.num_channels = num_channels

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor | int]:
        image = self.source.read(index, self.num_channels)
        sample = {"labels": int(self.source.labels[index])}
        if rng is None:
            sample["pixel_values"] = self.transform(image)
        else:
            sample[SAMPLE_SEED], sample[INDEX] = int(rng.integers(2**32)), index
            sample["pixel_values"] = self.transform(image, rng)
        return sample


def load_data(args: DataArguments, token: str | None = None) -> tuple[LabelledImages, LabelledImages]:
    """The training and the evaluation pictures.

    Raises:
        ValueError: missing splits or columns (with those there are), labels that are none, nothing to train on.
        OSError: a data set that cannot be found or reached.
    """
    splits = load_image_splits(args, token)
    train = _split(splits, args, "--train_split", args.train_split)
    if args.eval_dataset is not None:
        evaluation = load_evaluation_data(args, token)
    elif (name := evaluation_split(args, list(splits))) is not None:
        evaluation = _split(splits, args, "--eval_split", name).evenly(args.max_eval_samples)
    else:
        train, evaluation = _hold_out(train, args)
        evaluation = evaluation.evenly(args.max_eval_samples)
    evaluation = _with_names_of(train, evaluation)
    train = train.evenly(args.max_train_samples)
    for source in (train, evaluation):
        if not len(source):
            raise ValueError(f"{source.split} is empty.")
    return train, evaluation


def load_evaluation_data(args: DataArguments, token: str | None = None) -> LabelledImages:
    """The evaluation pictures alone, those of `load_data`; of a data set with one split all of it, unless the
    arguments hold some out. Raises as `load_data`."""
    if args.eval_dataset is not None:
        args = args.of_eval_dataset()
    splits = load_image_splits(args, token)
    name = evaluation_split(args, list(splits), alone=True)
    if name is None:
        source = _hold_out(_split(splits, args, "--train_split", args.train_split), args)[1]
    else:
        source = _split(splits, args, "--eval_split", name)
    if not len(source):
        raise ValueError(f"{source.split} is empty.")
    return source.evenly(args.max_eval_samples)


def _hold_out(train: LabelledImages, args: DataArguments) -> tuple[LabelledImages, LabelledImages]:
    """The rest, and the share of each class that is evaluated on."""
    number = number_held_out(args, len(train), train.split)
    if args.eval_holdout is not None:
        held_out = stratified_choice(train.labels, number)
    else:
        held_out = stratified_sample(train.labels, args.eval_fraction or 0.1)
    return train.select(~held_out), replace(train.select(held_out), split=f"{train.split} (held out)")


def _split(splits: dict, args: DataArguments, argument: str, name: str) -> LabelledImages:
    return _labelled(pick_split(splits, argument, name), args, f"{args.dataset}/{name}")


def _labelled(rows, args: DataArguments, split: str) -> LabelledImages:
    if isinstance(rows, list):
        for name in ("image", "label"):
            asked_for = getattr(args, f"{name}_column")
            if asked_for not in (None, name):
                raise ValueError(f"--{name}_column: there is no {asked_for!r} in {split}, it is {name!r}.")
        labels, names = _numbered([row["label"] for row in rows], "label", split)
        images = [row["image"] for row in rows]
        return _mapped(LabelledImages(images, labels, names, split, np.arange(len(rows)), np.unique(labels)), args)
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
    source = LabelledImages(images, labels, names, split, np.arange(len(labels)), np.unique(labels))
    check_labels(source, len(names) if names else None)
    return _mapped(source, args)


def _mapped(source: LabelledImages, args: DataArguments) -> LabelledImages:
    """The pictures with their classes under the names of `--label_mapping`."""
    if not args.label_mapping:
        return source
    names = source.names or [str(number) for number in range(int(source.numbers.max(initial=-1)) + 1)]
    is_train = source.split == f"{args.dataset}/{args.train_split}"
    names, table = mapped_names(names, args.label_mapping, source.split, strict=is_train)
    return source.renumbered(table, names)


def _numbered(values: Sequence, column: str, split: str) -> tuple[np.ndarray, list[str] | None]:
    """Class numbers, and the names where the values are texts (sorted)."""
    values = list(values)
    if None in values:
        raise ValueError(f"row {values.index(None)} of {split}: column {column!r} holds None: it has no class.")
    if all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        numbers = {name: number for number, name in enumerate(names)}
        return np.asarray([numbers[value] for value in values], dtype=np.int64), names
    kind = str if values and isinstance(values[0], str) else (int, np.integer)
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(
                f"row {row} of {split}: column {column!r} holds {value!r}, accepted is one class per image, a whole "
                "number or a text (and the same throughout)."
            )
        if not isinstance(value, str) and value > _MOST_CLASSES:
            raise ValueError(
                f"row {row} of {split}: column {column!r} holds {value}, accepted are numbers of classes up to "
                f"{_MOST_CLASSES}."
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
        raise ValueError(f"{evaluation.split} has classes that {train.split} lacks: {shown(unknown)}.")
    return evaluation.renumbered([train.names.index(name) for name in evaluation.names], train.names)


def check_classes(train: LabelledImages, makes_them: bool) -> None:
    """ValueError if there is nothing to tell apart, or (with `makes_them`: the model has a class for each number up to
    the largest label) if most numbers are of no class."""
    if len(train.numbers) < 2:
        raise ValueError(f"{train.split} has one class only: there is nothing to tell apart.")
    count = int(train.numbers[-1]) + 1
    if makes_them and 2 * len(train.numbers) < count:
        few = shown([str(number) for number in train.numbers])
        raise ValueError(
            f"the labels of {train.split} go up to {count - 1}, but only {len(train.numbers)} different ones occur "
            f"({few}). If they are names and not numbers of classes, --label_mapping gives them others, such as "
            f"'{{{train.numbers[0]}: a, {train.numbers[1]}: b}}'."
        )
