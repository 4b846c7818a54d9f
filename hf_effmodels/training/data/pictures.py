"""Pictures of any data set, with or without labels: where they are, read one by one, by number."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from ...images import image_name
from .digits import load_image_splits
from .errors import of_sample
from .fingerprints import facts, picture
from .images import ImageSplitArguments, read_for_stock_processor, where
from .splits import (
    HELD_OUT,
    Column,
    evaluation_split,
    find_column,
    grouped_choice,
    number_held_out,
    only_split,
    pick_split,
    say_held_out,
)

#: Rows whose files are looked up at a time.
_AT_A_TIME = 4096


@dataclass
class PictureArguments(ImageSplitArguments):
    """Which pictures."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a data set on the Hub, a folder, imagefolder, or digits.",
            "help": "A data set on the Hub, a local folder, a format with data_files or data_dir (imagefolder, "
            "parquet, ...), or digits (1797 handwritten digits that come with scikit-learn; "
            "also digits-faint, -inverted, -noisy, -blurred and -small, to adapt to).",
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the pictures; by default the only one of that type."}
    )


@dataclass(frozen=True)
class Pictures:
    """Pictures without more.

    Attributes:
        images: whatever `images.read_image` takes, by number.
        split: where they come from, for messages.
        rows: number of each picture in that split.
        ids: of all pictures of the split, where `--id_column` names them.
    """

    images: Sequence
    split: str
    rows: np.ndarray
    ids: Sequence | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.rows)

    def groups(self) -> np.ndarray:
        """Of each picture the group that it is held out with; each has its own here."""
        return np.arange(len(self))

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
        return facts(len(self), pictures=lambda index: picture(self.images[int(self.rows[index])]))

    def select(self, chosen: np.ndarray | list[int]) -> Self:
        return replace(self, rows=self.rows[chosen])

    def evenly(self, limit: int | None) -> Self:
        """At most `limit` of them, evenly spread: folders come sorted by class."""
        if limit is None or limit >= len(self):
            return self
        return self.select(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))


def picture_ids(source: Pictures) -> list[str]:
    """By what each picture is looked up elsewhere: what `--id_column` holds, or else the name of its file, with the
    folder before it where names repeat, or else the number of its row."""
    if source.ids is not None:
        return [str(source.ids[row]) for row in source.rows.tolist()]
    paths = _paths(source)
    if not all(paths):
        return [str(row) for row in source.rows.tolist()]
    names = [Path(path).name for path in paths]
    return names if len({*names}) == len(names) else ["/".join(Path(path).parts[-2:]) for path in paths]


def _paths(source: Pictures) -> list[str | None]:
    """The file of each picture; what is in it is not read."""
    if not isinstance(source.images, Column):
        return [image_name(source.images[row]) for row in source.rows.tolist()]
    import pyarrow.compute as pc

    table, found = source.images.rows.with_format("arrow"), []
    for start in range(0, len(source), _AT_A_TIME):
        values = table[source.rows[start : start + _AT_A_TIME]][source.images.name]
        found += pc.struct_field(values, "path").to_pylist()
    return found


def load_pictures(args: PictureArguments, token: str | None = None) -> tuple[Pictures, Pictures]:
    """The training and the evaluation pictures; labels, where there are some, are not looked at.

    Raises:
        ValueError: missing splits or columns (with those there are), nothing to train on.
        OSError: a data set that cannot be found or reached.
    """
    return for_training(args, token, _pictures, hold_out)


def load_evaluation_pictures(args: PictureArguments, token: str | None = None) -> Pictures:
    """The evaluation pictures alone, those of `load_pictures`; of a data set with one split all of it, unless the
    arguments hold some out. Raises as `load_pictures`."""
    return for_evaluation(args, token, _pictures, hold_out)


def load_picture_split(args: PictureArguments, name: str | None, token: str | None = None) -> Pictures:
    """All pictures of the split of this name, or of the only one; what `args` hold out or leave out is not looked at.

    Raises:
        ValueError: there is no such split or column, or it is not clear which is meant, or the split is empty.
        OSError: a data set that cannot be found or reached.
    """
    splits = load_image_splits(args, token)
    return _read_split(splits, args, "--split", only_split(splits, "--split", name), _pictures)


def for_training(args: PictureArguments, token: str | None, read: Callable, hold_out: Callable) -> tuple:
    """The training and the evaluation pictures, of whatever kind.

    Args:
        read: table, arguments and the name of a split -> its pictures.
        hold_out: pictures and arguments -> the rest of them, and those to evaluate on.

    Raises: as `load_pictures`.
    """
    splits = load_image_splits(args, token)
    train = _read_split(splits, args, "--train_split", args.train_split, read)
    if args.eval_dataset is not None:
        evaluation = for_evaluation(args, token, read, hold_out)
    elif (name := evaluation_split(args, list(splits))) is not None:
        evaluation = _read_split(splits, args, "--eval_split", name, read).evenly(args.max_eval_samples)
    else:
        train, evaluation = hold_out(train, args)
        evaluation = evaluation.evenly(args.max_eval_samples)
    train = train.evenly(args.max_train_samples)
    for source in (train, evaluation):
        if not len(source):
            raise ValueError(f"{source.split} is empty.")
    return train, evaluation


def for_evaluation(args: PictureArguments, token: str | None, read: Callable, hold_out: Callable):
    """The evaluation pictures alone; see `for_training` and `load_evaluation_pictures`."""
    if args.eval_dataset is not None:
        args = args.of_eval_dataset()
    splits = load_image_splits(args, token)
    name = evaluation_split(args, list(splits), alone=True)
    if name is None:
        source = hold_out(_read_split(splits, args, "--train_split", args.train_split, read), args)[1]
    else:
        source = _read_split(splits, args, "--eval_split", name, read)
    if not len(source):
        raise ValueError(f"{source.split} is empty.")
    return source.evenly(args.max_eval_samples)


def image_column_of(rows, args: PictureArguments, split: str) -> tuple[Sequence, str]:
    """The images of a table, undecoded, so that what is wrong with one can be said with the row it stands in; and the
    name of their column.

    Raises:
        ValueError: there is no such column, or it is not clear which is meant.
    """
    if isinstance(rows, list):
        if args.image_column not in (None, "image"):
            raise ValueError(f"--image_column: there is no {args.image_column!r} in {split}, it is 'image'.")
        return [row["image"] for row in rows], "image"
    import datasets

    features = rows.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    column = find_column("image_column", args.image_column, images, ("image", "img"), features)
    if isinstance(features[column], datasets.Image):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return Column(rows.select_columns(column), column), column


def same_images(images: Iterable) -> np.ndarray:
    """Of each row of a table what its image is known by, its name or a digest of its file; rows without one, or with
    one that is in no file, are each by itself."""
    return np.asarray([_known_by(number, image) for number, image in enumerate(images)])


def _known_by(number: int, image) -> str:
    if isinstance(image, dict):  # as `datasets` has it undecoded
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    return f"file {image}" if isinstance(image, str) and image else f"row {number}"


def hold_out(train: Pictures, args: PictureArguments) -> tuple[Pictures, Pictures]:
    """The rest, and the pictures that are evaluated on: drawn, the same in every run, those of one group together."""
    number = number_held_out(args, len(train), train.split, is_exact=False)
    held_out = grouped_choice(train.groups(), number, train.split)
    say_held_out(int(held_out.sum()), len(train), train.split)
    evaluation = train.select(np.flatnonzero(held_out))
    return train.select(np.flatnonzero(~held_out)), replace(evaluation, split=f"{train.split}{HELD_OUT}")


def _read_split(splits: dict, args: PictureArguments, argument: str, name: str, read: Callable):
    return read(pick_split(splits, argument, name), args, f"{args.dataset}/{name}")


def _pictures(rows, args: PictureArguments, split: str) -> Pictures:
    images, _ = image_column_of(rows, args, split)
    return Pictures(images, split, np.arange(len(images)))
