"""Labelled pictures from anywhere `datasets` reads, checked before training starts."""

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ....classes import in_words
from ...data.classes import mapped_names, shown
from ...data.fingerprints import fingerprint
from ...data.label_maps import LabelMaps
from ...data.pictures import PictureArguments, Pictures, for_evaluation, for_training, image_column_of
from ...data.seeded import SeededDataset
from ...data.splits import (
    EVAL_FRACTION,
    HELD_OUT,
    Column,
    find_column,
    number_held_out,
    say_held_out,
    stratified_choice,
    stratified_sample,
)
from ...run.arguments import read_mapping
from ...run.values import SET
from .mixing import INDEX, SAMPLE_SEED, UNMIXED

# Each number up to the largest label is a class, with a name and weights.
_MOST_CLASSES = 1_000_000
#: The share of the training split that is held out where there is no split to evaluate on; the name of such a split
#: ends so.


@dataclass
class DataArguments(PictureArguments):
    """Which pictures, and their classes."""

    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels; by default the only one with class names, or 'label'."}
    )
    id_column: str | None = field(
        default=None,
        metadata={
            "goes_with": {"text_embeddings": SET},
            "help": "Column by which the pictures' text embeddings are found; by default the name of the file, or the "
            "number of the row.",
        },
    )
    label_mapping: dict | str | None = field(
        default=None,
        metadata={
            "help": "Other names for the data set's classes (or numbers), such as {tabby: cat, siamese: cat, 2: dog}: "
            "those of a trained model, or the same for several that become one."
        },
    )
    classes: list[str] | None = field(
        default=None,
        metadata={
            "help": "Take the pictures of these classes alone, which are then all there are; with --label_mapping by "
            "their new names."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.label_mapping = read_mapping("label_mapping", self.label_mapping, keys=(str, int))
        for name, new in self.label_mapping.items():
            if new is None or isinstance(new, dict | list):
                raise ValueError(f"--label_mapping: got {new!r} for {name}, accepted are names.")
        if self.classes is not None:
            if isinstance(self.classes, str) or not all(isinstance(n, str | int) for n in self.classes):
                raise ValueError(f"--classes: got {self.classes!r}, accepted is a list of names.")
            self.classes = in_words([str(name) for name in self.classes])
            if twice := sorted({name for name in self.classes if self.classes.count(name) > 1}):
                raise ValueError(f"--classes: {twice[0]!r} stands there twice.")


@dataclass(frozen=True)
class LabelledImages(Pictures):
    """Pictures and their classes.

    Attributes:
        labels: class of each, int64.
        names: of the classes, None where the data set has only numbers.
        numbers: the different labels of the whole split, in order.
        columns: `image_column` and `label_column` that they were read from.
    """

    labels: np.ndarray
    names: list[str] | None
    numbers: np.ndarray
    columns: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def facts(self) -> dict[str, int | str]:
        """What is known again of them, see `data.fingerprints`."""
        return super().facts() | {"labels": fingerprint([self.names, self.labels])[:16]}

    def select(self, chosen: np.ndarray | list[int]) -> "LabelledImages":
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])

    def renumbered(self, table: Sequence[int], names: Sequence[str]) -> "LabelledImages":
        """The same pictures, those of class c now of class `table[c]`, under the new names."""
        table = np.asarray(table, dtype=np.int64)
        return replace(self, labels=table[self.labels], numbers=np.unique(table[self.numbers]), names=list(names))


class ImageClassificationDataset(SeededDataset):
    """Samples `{"pixel_values": (channels, height, width) tensor, "labels": int}`.

    With a seed it is a training set, whose samples carry a random number of their own, for what mixes samples, and
    their number.

    Args:
        source: the pictures.
        transform: from a picture to the model's input.
        num_channels: that pictures are read with.
        seed: see `SeededDataset`.
        label_maps: of a training set: labels are probabilities (classes,) then, of each crop by its own.
        label_map_weight: share of these in the label; the rest is the picture's class.
        mixed_epochs: of a training set: samples of later epochs say that they are not to be mixed.
    """

    def __init__(
        self,
        source: LabelledImages,
        transform,
        num_channels: int,
        seed: int | None = None,
        *,
        label_maps: LabelMaps | None = None,
        label_map_weight: float = 1.0,
        mixed_epochs: int | None = None,
    ):
        super().__init__(seed)
        self.source = source
        self.transform = transform
        self.num_channels = num_channels
        self.label_maps = label_maps
        self.label_map_weight = label_map_weight
        self.mixed_epochs = mixed_epochs
        self.columns: dict[str, Callable[[int], torch.Tensor]] = {}

    def with_column(self, name: str, get: Callable[[int], torch.Tensor]) -> "ImageClassificationDataset":
        """The same, whose training samples have `get(index)` under this name as well."""
        other = copy.copy(self)
        other.columns = {**self.columns, name: get}
        return other

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor | int]:
        image = self.source.read(index, self.num_channels)
        sample = {"labels": int(self.source.labels[index])}
        if rng is None:
            sample["pixel_values"] = self.transform(image)
            return sample
        sample[SAMPLE_SEED], sample[INDEX] = int(rng.integers(2**32)), index
        if self.label_maps is None:
            sample["pixel_values"] = self.transform(image, rng)
        else:
            sample["pixel_values"], box = self.transform.with_box(image, rng)
            target = self.label_map_weight * self.label_maps.target(index, box)
            target[sample["labels"]] += 1 - self.label_map_weight
            sample["labels"] = target
        return sample | {name: get(index) for name, get in self.columns.items()}

    def sample_of_epoch(self, epoch: int, index: int, rng: np.random.Generator | None):
        sample = self.sample(index, rng)
        if self.mixed_epochs is not None and epoch >= self.mixed_epochs:
            sample[UNMIXED] = True
        return sample


def load_data(
    args: DataArguments, token: str | None = None, *, labelled: bool = True
) -> tuple[LabelledImages, LabelledImages | None]:
    """The training and the evaluation pictures.

    Args:
        labelled: false for a training that looks at no label: no split needs a column of them. The training pictures
            all have the label 0; the evaluation's are None where they have no labels, and are then not held out.

    Raises:
        ValueError: missing splits or columns (with those there are), labels that are none, nothing to train on.
        OSError: a data set that cannot be found or reached.
    """
    if labelled:
        train, evaluation = for_training(args, token, _labelled, _hold_out)
        return train, _with_names_of(train, evaluation)
    train, evaluation = for_training(args, token, _labelled_or_not, _hold_out_labelled)
    known = evaluation if _has_labels(evaluation) else None
    names, numbers = (known.names, known.numbers) if known else (None, np.arange(2))
    return replace(train, labels=np.zeros(len(train), dtype=np.int64), names=names, numbers=numbers), known


def load_evaluation_data(args: DataArguments, token: str | None = None) -> LabelledImages:
    """The evaluation pictures alone, those of `load_data`; of a data set with one split all of it, unless the
    arguments hold some out. Raises as `load_data`."""
    return for_evaluation(args, token, _labelled, _hold_out)


def _hold_out(train: LabelledImages, args: DataArguments) -> tuple[LabelledImages, LabelledImages]:
    """The rest, and the share of each class that is evaluated on."""
    number = number_held_out(args, len(train), train.split, is_exact=False)
    if args.eval_holdout is not None:
        held_out = stratified_choice(train.labels, number)
    else:
        held_out = stratified_sample(train.labels, args.eval_fraction or EVAL_FRACTION)
    say_held_out(int(held_out.sum()), len(train), train.split)
    return train.select(~held_out), replace(train.select(held_out), split=f"{train.split}{HELD_OUT}")


def _hold_out_labelled(train: LabelledImages, args: DataArguments) -> tuple[LabelledImages, LabelledImages]:
    return _hold_out(train, args) if _has_labels(train) else (train, train)


def _has_labels(source: LabelledImages) -> bool:
    return bool((source.labels >= 0).all())


def _labelled_or_not(rows, args: DataArguments, split: str) -> LabelledImages:
    """As `_labelled`; of a table without a column of labels, or with none but -1 in it, all labels are -1."""
    if not isinstance(rows, list) and args.label_column is None:
        import datasets

        features = rows.features
        classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        column = next((name for name in (*classes, "label", "labels") if name in features), None)
        if column is None or all(value in (-1, None) for value in rows[column][:]):
            images, _ = image_column_of(rows, args, split)
            numbers = np.arange(len(rows))
            return LabelledImages(images, split, numbers, np.full(len(rows), -1), None, np.array([], dtype=np.int64))
    return _labelled(rows, args, split)


def _labelled(rows, args: DataArguments, split: str) -> LabelledImages:
    images, image_column = image_column_of(rows, args, split)
    if isinstance(rows, list):
        if args.id_column is not None:
            raise ValueError(f"--id_column: there is no {args.id_column!r} in {split}.")
        if args.label_column not in (None, "label"):
            raise ValueError(f"--label_column: there is no {args.label_column!r} in {split}, it is 'label'.")
        labels, names = _numbered([row["label"] for row in rows], "label", split)
        columns = {"image_column": image_column, "label_column": "label"}
        source = LabelledImages(images, split, np.arange(len(rows)), labels, names, np.unique(labels), columns=columns)
        return _chosen(_mapped(source, args), args)
    import datasets

    features = rows.features
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label_column = find_column("label_column", args.label_column, classes, ("label", "labels"), features)
    labels, names = _numbered(rows[label_column][:], label_column, split)
    if isinstance(features[label_column], datasets.ClassLabel):
        names = list(features[label_column].names)
    ids = None
    if args.id_column is not None:
        column = find_column("id_column", args.id_column, [], (), features)
        ids = Column(rows.select_columns(column), column)
    columns = {"image_column": image_column, "label_column": label_column}
    source = LabelledImages(
        images, split, np.arange(len(labels)), labels, names, np.unique(labels), ids=ids, columns=columns
    )
    check_labels(source, len(names) if names else None)
    return _chosen(_mapped(source, args), args)


def _chosen(source: LabelledImages, args: DataArguments) -> LabelledImages:
    """The pictures of `--classes` alone, numbered in the order in which these are named."""
    if args.classes is None:
        return source
    check_labels(source, None)
    names = source.names or [str(number) for number in range(int(source.numbers.max(initial=-1)) + 1)]
    unknown = [name for name in args.classes if name not in names]
    # A split to evaluate on may have no picture of a class; see `check_chosen`.
    if unknown and (source.split == f"{args.dataset}/{args.train_split}" or len(unknown) == len(args.classes)):
        near = difflib.get_close_matches(unknown[0], names, n=3)
        hint = f"nearest: {', '.join(near)}" if near else f"there are {shown(names)}"
        raise ValueError(f"--classes: {source.split} has no class {unknown[0]!r}; {hint}.")
    table = np.full(len(names), -1)
    known = [name for name in args.classes if name in names]
    table[[names.index(name) for name in known]] = np.arange(len(known))
    chosen = source.select(np.flatnonzero(table[source.labels] >= 0))
    labels = table[chosen.labels]
    return replace(chosen, labels=labels, numbers=np.unique(labels), names=known)


def check_chosen(source: LabelledImages, args: DataArguments, own: Sequence[str]) -> None:
    """ValueError of one of `--classes` that neither the pictures to evaluate on have nor the model, whose classes are
    `own`."""
    known = {*(source.names or ()), *in_words(own)}
    if unknown := [name for name in args.classes or () if name not in known]:
        near = difflib.get_close_matches(unknown[0], sorted(known), n=3)
        hint = f"nearest: {', '.join(near)}" if near else f"the model has {shown(own)}"
        raise ValueError(f"--classes: neither {source.split} nor the model has a class {unknown[0]!r}; {hint}.")


def _mapped(source: LabelledImages, args: DataArguments) -> LabelledImages:
    """The pictures with their classes under the names of `--label_mapping`, and ImageNet's under its words."""
    if not args.label_mapping:
        return source if source.names is None else replace(source, names=in_words(source.names))
    names = source.names or [str(number) for number in range(int(source.numbers.max(initial=-1)) + 1)]
    is_train = source.split == f"{args.dataset}/{args.train_split}"
    names, table = mapped_names(names, args.label_mapping, source.split, strict=is_train)
    return source.renumbered(table, in_words(names))


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
