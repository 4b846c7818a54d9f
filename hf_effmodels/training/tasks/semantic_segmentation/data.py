"""Images with a class for each pixel: from the Hub, from paired folders, and digits on a canvas."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...data.digit_canvases import CANVASES, digit_canvas
from ...data.digits import DIGITS
from ...data.errors import SampleError, of_sample
from ...data.fingerprints import facts, picture
from ...data.images import ImageSplitArguments, open_image, read_image, where
from ...data.splits import HELD_OUT, evaluation_split, find_column, load_splits, number_held_out, pick_split

#: Label of pixels that belong to no class.
IGNORED = 255
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
#: Folders of images and of maps, as data sets are laid out.
_FOLDERS = (("images", "annotations"), ("images", "masks"), ("images", "labels"), ("leftImg8bit", "gtFine"))
_SPLITS = {"training": "train", "valid": "validation", "val": "validation"}


@dataclass
class SegmentationDataArguments(ImageSplitArguments):
    """Which images with maps of their classes."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a data set of the Hub, a folder, or digits.",
            "help": "A data set on the Hub with a column of maps; or a folder with images/SPLIT and annotations/SPLIT "
            "(or masks, labels) whose files have the same names; or digits: handwritten digits on canvases.",
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images."})
    mask_column: str | None = field(default=None, metadata={"help": "Column of the maps."})
    class_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the classes, or a text file with a name on each line."}
    )
    reduce_labels: bool = field(
        default=False,
        metadata={"help": "In the maps 0 is no class and classes are counted from 1 (ADE20K)."},
    )


@dataclass(frozen=True)
class SegmentationImages:
    """Images with maps, read when asked for.

    Attributes:
        rows: number of each image in its table.
        image, mask: row -> what `read_image` takes.
        names: of the classes.
        split: for messages.
        numbers: the number under which each class is read, where it is that of a model (`classes.numbered_as`).
        reduce_labels: 0 is no class.
    """

    rows: Sequence[int]
    image: Callable
    mask: Callable
    names: list[str]
    split: str
    reduce_labels: bool = False
    numbers: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, numbers: Sequence[int]) -> "SegmentationImages":
        return replace(self, rows=[self.rows[number] for number in numbers])

    def facts(self) -> dict[str, int | str]:
        """How many samples, and fingerprints of their pictures and maps, see `data.fingerprints`."""
        return facts(
            len(self),
            pictures=lambda n: picture(self.image(self.rows[n])),
            maps=lambda n: picture(self.mask(self.rows[n])),
        )

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (height, width, 3) of bytes, and its map (height, width) of bytes: classes, or `IGNORED`.

        Raises:
            ValueError, OSError: an image or a map that cannot be read, or that do not fit; names the row.
        """
        row = self.rows[number]
        value = None
        try:
            value = self.image(row)
            image = np.asarray(read_image(value))
            value = self.mask(row)
            mask = _read_mask(value)
        except (ValueError, OSError) as error:
            raise of_sample(error, where(row, self.split, value)) from error
        if mask.shape != image.shape[:2]:
            raise SampleError(
                f"{where(row, self.split, value)}: the map has {mask.shape[0]}×{mask.shape[1]} pixels, the image "
                f"{image.shape[0]}×{image.shape[1]}"
            )
        if self.reduce_labels:
            # 0 becomes the ignored label, and what was ignored stays so.
            mask = np.where((mask == 0) | (mask == IGNORED), IGNORED, mask - 1)
        outside = (mask >= len(self.names)) & (mask != IGNORED)
        if outside.any():
            raise SampleError(
                f"{where(row, self.split, value)}: the map has the class {mask[outside].max()}, accepted are 0 to "
                f"{len(self.names) - 1} and {IGNORED}"
            )
        if self.numbers is not None:
            mask = np.where(mask == IGNORED, IGNORED, np.asarray(self.numbers)[np.minimum(mask, len(self.names) - 1)])
        return image, mask.astype(np.uint8)


def _read_mask(value) -> np.ndarray:
    """A map of classes: the values of a grey image, or the indices of a palette, as they are."""
    image = open_image(value)
    if image.mode not in ("L", "P", "1", "I", "I;16"):
        raise ValueError(f"a map of the mode {image.mode}, accepted are grey values or a palette, which are classes")
    values = np.asarray(image)
    if values.ndim != 2 or values.min(initial=0) < 0 or values.max(initial=0) > IGNORED:
        raise ValueError(f"a map with values from {values.min()} to {values.max()}, accepted are 0 to {IGNORED}")
    return values.astype(np.int64)


def load_data(args: SegmentationDataArguments, token: str | None) -> tuple[SegmentationImages, SegmentationImages]:
    """What to train on, and what to evaluate on."""
    splits = _splits(args, token)
    train = pick_split(splits, "--train_split", args.train_split)
    if args.eval_dataset is not None:
        return _fewer(train, args.max_train_samples), load_evaluation_data(args, token)
    name = evaluation_split(args, list(splits))
    if name is not None:
        evaluation = splits[name]
    else:
        train, evaluation = _hold_out(args, train)
    return _fewer(train, args.max_train_samples), _fewer(evaluation, args.max_eval_samples)


def load_evaluation_data(args: SegmentationDataArguments, token: str | None) -> SegmentationImages:
    """What to evaluate on, without a training."""
    if args.eval_dataset is not None:
        args = args.of_eval_dataset()
    splits = _splits(args, token)
    name = evaluation_split(args, list(splits), alone=True)
    if name is not None:
        return _fewer(splits[name], args.max_eval_samples)
    train = pick_split(splits, "--train_split", args.train_split)
    return _fewer(_hold_out(args, train)[1], args.max_eval_samples)


def _hold_out(
    args: SegmentationDataArguments, train: SegmentationImages
) -> tuple[SegmentationImages, SegmentationImages]:
    """The rest, and what is evaluated on."""
    count = number_held_out(args, len(train), train.split)
    held_out = set(np.random.default_rng(0).permutation(len(train))[:count].tolist())
    rest = train.select([number for number in range(len(train)) if number not in held_out])
    return rest, replace(train.select(sorted(held_out)), split=f"{train.split}{HELD_OUT}")


def _fewer(source: SegmentationImages, most: int | None) -> SegmentationImages:
    if most is None or most >= len(source):
        return source
    return source.select(np.linspace(0, len(source) - 1, most).round().astype(int).tolist())


def _splits(args: SegmentationDataArguments, token: str | None) -> dict[str, SegmentationImages]:
    if args.dataset == DIGITS:
        return {split: _digits(split, count, args) for split, count in CANVASES.items()}
    folder = Path(args.dataset)
    for images, masks in _FOLDERS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            return _folders(folder / images, folder / masks, args)
    splits = load_splits(args, token, known=(DIGITS,))
    return {name: _table(rows, f"{args.dataset}/{name}", args) for name, rows in splits.items()}


def _named(args: SegmentationDataArguments, names: Sequence[str] | None) -> list[str]:
    """The names that were given, or those of a text file, or else `names`."""
    given = args.class_names
    if given is None and names is None:
        raise ValueError("--class_names: the data set does not name its classes; give the names or a text file.")
    if given is None:
        return list(names)
    if len(given) == 1:
        if not os.path.isfile(given[0]):
            raise ValueError(f"--class_names: got {given[0]!r}, accepted are names, or a text file of them.")
        lines = Path(given[0]).read_text(encoding="utf-8").splitlines()
        given = [line.strip() for line in lines if line.strip()]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice or not 2 <= len(given) <= IGNORED:
        found = f"{len(given)} names{f', {twice[0]!r} twice' if twice else ''}"
        raise ValueError(f"--class_names: got {found}, accepted are 2 to {IGNORED}, all different.")
    return list(given)


def _digits(split: str, count: int, args: SegmentationDataArguments) -> SegmentationImages:
    """The ground and ten digits; with two names the ground and what is written on it."""
    from PIL import Image

    names = _named(args, ["ground", *map(str, range(10))])
    if len(names) not in (2, 11):
        raise ValueError(f"--class_names: got {len(names)}, digits have 11 classes, or 2: the ground and the digits.")

    def mask(row: int) -> Image.Image:
        labels = digit_canvas(split, row)[2]
        return Image.fromarray(labels.clip(0, 1) if len(names) == 2 else labels)

    return SegmentationImages(range(count), lambda row: digit_canvas(split, row)[0], mask, names, f"{DIGITS}/{split}")


def _folders(images: Path, masks: Path, args: SegmentationDataArguments) -> dict[str, SegmentationImages]:
    """A split for each folder of the images, or the one split "train" where they lie there without."""
    places = sorted(place for place in images.iterdir() if place.is_dir()) or [images]
    splits = {}
    for place in places:
        name = "train" if place == images else _SPLITS.get(place.name, place.name)
        files = sorted(path for path in place.rglob("*") if path.suffix.lower() in _IMAGES)
        maps = _maps_of(files, place, masks / place.relative_to(images))
        missing = [str(path.relative_to(place)) for path, its in zip(files, maps, strict=True) if its is None]
        if missing or not files:
            found = f"{len(missing)} images have no map ({missing[0]})" if missing else "there are no images"
            raise ValueError(f"--dataset: {place}: {found}; maps are PNG files of the same names in {masks}.")
        splits[name] = SegmentationImages(
            range(len(files)),
            lambda row, files=files: str(files[row]),
            lambda row, maps=maps: str(maps[row]),
            _named(args, None),
            f"{args.dataset}/{name}",
            args.reduce_labels,
        )
    return splits


def _maps_of(files: list[Path], place: Path, root: Path) -> list[Path | None]:
    """For each image the map of its name in the same folder below `root`, or else the only one of its name, where no
    other image is called so."""
    maps = {path.relative_to(root).with_suffix(""): path for path in root.rglob("*") if path.suffix.lower() == ".png"}
    called, of_images = Counter(path.stem for path in maps.values()), Counter(path.stem for path in files)
    alone = {path.stem: path for path in maps.values() if called[path.stem] == of_images[path.stem] == 1}
    return [maps.get(file.relative_to(place).with_suffix("")) or alone.get(file.stem) for file in files]


def _table(rows, split: str, args: SegmentationDataArguments) -> SegmentationImages:
    from datasets import ClassLabel, Image, Value

    features = rows.features
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    usual = ("annotation", "mask", "label", "segmentation_mask", "labels", "semantic_mask", "masks")
    mask = find_column("mask_column", args.mask_column, [n for n in usual if n in typed][:1], usual, features)
    others = [name for name in typed if name != mask]
    image = find_column(
        "image_column", args.image_column, others[:1] if len(others) == 1 else [], ("image",), features
    )
    for argument, column in (("image_column", image), ("mask_column", mask)):
        if isinstance(features[column], (ClassLabel, Value)):
            raise ValueError(
                f"--{argument}: {column!r} holds no pictures; of {split} "
                + (f"{', '.join(map(repr, typed))} do." if typed else "no column does.")
            )
        if column in typed:
            rows = rows.cast_column(column, Image(decode=False))
    return SegmentationImages(
        range(len(rows)),
        lambda row: rows[row][image],
        lambda row: rows[row][mask],
        _named(args, None),
        split,
        args.reduce_labels,
    )
