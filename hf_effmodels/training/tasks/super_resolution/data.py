"""High-resolution images from anywhere, with prepared low-resolution images and structure maps where there are any."""

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ....pipelines.sam_diffsr.masks import decode_regions
from ....pipelines.sam_diffsr.matlab_resize import imresize
from ...data.errors import of_sample
from ...data.fingerprints import facts, picture
from ...data.images import ImageSplitArguments, image_name, open_image, read_image
from ...data.splits import (
    HELD_OUT,
    Column,
    check_built_in,
    evaluation_split,
    find_column,
    load_splits,
    number_held_out,
    pick_split,
)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
#: Columns of tables that `hf-effmodels prepare super-resolution-masks` writes, beside the image.
REGIONS, VALUES, LOW, NAME = "regions", "values", "low", "name"
#: Photographs in the wheel of scikit-image, all without known copyright, by split.
SKIMAGE_PHOTOS = {
    "train": "astronaut.png brick.png camera.png coffee.png grass.png gravel.png motorcycle_left.png rocket.jpg",
    "validation": "chelsea.png coins.png",
}
_CACHE_BYTES = 256 * 2**20


@dataclass
class SuperResolutionDataArguments(ImageSplitArguments):
    """Which images."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a folder of images, a data set on the Hub or skimage_photos.",
            "help": "High-resolution images: a folder of them, a table of `hf-effmodels prepare "
            "super-resolution-masks`, a data set on the Hub, a format with data_files or data_dir (imagefolder, "
            "parquet, ...), or skimage_photos (ten that come with scikit-image).",
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images; by default 'image', or the only one of that type."}
    )
    low_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of prepared low-resolution images; by default 'low' where there is one. Without any "
            "they are reduced as MATLAB's imresize does."
        },
    )
    low_folder: str | None = field(
        default=None,
        metadata={"help": "Folder of prepared low-resolution images, named as the others or with x4 at the end."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.low_column is not None and self.low_folder is not None:
            raise ValueError("--low_column and --low_folder exclude each other.")


@dataclass(frozen=True)
class HighResolutionImages:
    """Images by number, read when asked for; those read last are kept in memory.

    Attributes:
        images: whatever `read_image` takes.
        split: where they come from, for messages.
        rows: number of each image in that split.
        names: of all images of the split.
        low: prepared low-resolution images.
        regions, values: structure maps, as `masks.encode_regions` returns them.
    """

    images: Sequence
    split: str
    rows: np.ndarray
    names: Sequence[str]
    low: Sequence | None = None
    regions: Sequence | None = None
    values: Sequence | None = None
    _cache: OrderedDict = field(default_factory=OrderedDict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_structure(self) -> bool:
        return self.regions is not None

    def facts(self) -> dict[str, int | str]:
        """What is known again of them, see `data.fingerprints`."""

        def of(column: Sequence | None):
            return column and (lambda index: picture(column[int(self.rows[index])]))

        parts = {"pictures": of(self.images), "low-resolution pictures": of(self.low), "regions": of(self.regions)}
        if self.values is not None:
            parts["values of the regions"] = lambda index: self.values[int(self.rows[index])]
        return facts(len(self), **{name: get for name, get in parts.items() if get is not None})

    def select(self, chosen: np.ndarray | list[int]) -> "HighResolutionImages":
        return replace(self, rows=self.rows[chosen], _cache=OrderedDict())

    def evenly(self, limit: int | None) -> "HighResolutionImages":
        """At most `limit` of them, evenly spread."""
        if limit is None or limit >= len(self):
            return self
        return self.select(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))

    def name(self, index: int) -> str:
        return self.names[int(self.rows[index])]

    def image(self, index: int) -> torch.Tensor:
        """(3, height, width) uint8."""
        return self._read(index, "image", lambda row: read_rgb(self.images[row]))

    def low_image(self, index: int, scale: int) -> torch.Tensor | None:
        """The prepared low-resolution image, (3, height // scale, width // scale) uint8, if there is one.

        Raises:
            ValueError: its size does not fit the image's.
        """
        if self.low is None:
            return None

        def read(row: int) -> torch.Tensor:
            low, size = read_rgb(self.low[row]), self.image(index).shape[-2:]
            for given, side in zip(low.shape[-2:], size, strict=True):
                if given not in (side // scale, -(-side // scale)):
                    raise ValueError(
                        f"the low-resolution image is {low.shape[2]}×{low.shape[1]}, the image {size[1]}×{size[0]}: "
                        f"that is not the scale {scale}"
                    )
            return low[:, : size[0] // scale, : size[1] // scale].contiguous()

        return self._read(index, f"low {scale}", read)

    def structure(self, index: int) -> torch.Tensor:
        """The structure map, (1, height, width) float32, of the image's size.

        Raises:
            ValueError: it is of an image of another form.
        """

        def read(row: int) -> torch.Tensor:
            regions = self.regions[row]
            map_ = torch.from_numpy(decode_regions(read_regions(regions), self.values[row]))[None]
            return fit_structure(map_, tuple(self.image(index).shape[-2:]))

        return self._read(index, "structure", read)

    def _read(self, index: int, kind: str, read) -> torch.Tensor:
        row = int(self.rows[index])
        if (kept := self._cache.get((kind, row))) is not None:
            self._cache.move_to_end((kind, row))
            return kept
        try:
            value = read(row)
        except (ValueError, OSError) as error:
            name = image_name(self.images[row]) or self.names[row]
            raise of_sample(error, f"row {row} ({name}) of {self.split}") from error
        self._cache[kind, row] = value
        while len(self._cache) > 1 and sum(t.nbytes for t in self._cache.values()) > _CACHE_BYTES:
            self._cache.popitem(last=False)
        return value


def read_rgb(value) -> torch.Tensor:
    """Any picture as (3, height, width) uint8: grey ones fill the three colours, 16 bits are reduced to 8.

    Raises:
        ValueError: transparent pictures, whose colours are undefined, and what `read_image` refuses.
    """
    image = read_image(value, 4)
    array = np.asarray(image)
    if array[..., 3].min() < 255:
        raise ValueError("the image is transparent in places; paste it onto a background first")
    return torch.from_numpy(np.ascontiguousarray(array[..., :3].transpose(2, 0, 1)))


def read_regions(value) -> np.ndarray:
    """A region map as (height, width) whole numbers."""
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(open_image(value))  # as it is stored: the values are numbers of regions
    except (ValueError, OSError) as error:
        raise type(error)(f"the region map: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"the region map is {array.dtype} of shape {array.shape}, expected whole numbers, one channel"
        )
    return array


def fit_structure(structure: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A structure map, (1, h, w), in the size of its image: bilinear, as the official loader does it.

    Raises:
        ValueError: the map's sides are not in the image's proportion (within a pixel).
    """
    height, width = structure.shape[-2:]
    if (height, width) == tuple(size):
        return structure
    if abs(height * size[1] - width * size[0]) > max(*size, height, width):
        raise ValueError(f"the structure map is {width}×{height}, the image {size[1]}×{size[0]}: not one picture's")
    return F.interpolate(structure[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def reduce_image(image: torch.Tensor, scale: int) -> torch.Tensor:
    """The low-resolution image of one whose sides are cut to multiples of `scale`; (3, height, width) uint8."""
    height, width = (side // scale * scale for side in image.shape[-2:])
    return imresize(image[:, :height, :width], 1 / scale)


# ---- where they come from ----


def load_data(
    args: SuperResolutionDataArguments, token: str | None = None
) -> tuple[HighResolutionImages, HighResolutionImages]:
    """The images to train and to evaluate on.

    Raises:
        ValueError: missing splits or columns (with those there are), nothing to train on.
        OSError: a data set that cannot be found or reached.
    """
    splits = _splits(args, token)
    train = _split(splits, args, "--train_split", args.train_split)
    if args.eval_dataset is not None:
        evaluation = load_evaluation_data(args, token)
    elif (name := evaluation_split(args, list(splits))) is not None:
        evaluation = _split(splits, args, "--eval_split", name)
    else:
        train, evaluation = _hold_out(train, args)
    return train.evenly(args.max_train_samples), evaluation.evenly(args.max_eval_samples)


def load_evaluation_data(args: SuperResolutionDataArguments, token: str | None = None) -> HighResolutionImages:
    """The images to evaluate on alone, those of `load_data`; of a data set with one split all of it, unless the
    arguments hold some out. Raises as `load_data`."""
    if args.eval_dataset is not None:
        args = args.of_eval_dataset()
        # Columns and folders are those of the data set to train on; a table may share the name of its images.
        args.low_folder = args.low_column = None
        args.image_column = _shared_column(args)
    splits = _splits(args, token)
    name = evaluation_split(args, list(splits), alone=True)
    if name is None:
        source = _hold_out(_split(splits, args, "--train_split", args.train_split), args)[1]
    else:
        source = _split(splits, args, "--eval_split", name)
    return source.evenly(args.max_eval_samples)


def _hold_out(train: HighResolutionImages, args) -> tuple[HighResolutionImages, HighResolutionImages]:
    """The rest, and the evenly spread images that are evaluated on."""
    number = number_held_out(args, len(train), train.split, default=min(100, round(0.05 * len(train))))
    held_out = np.zeros(len(train), dtype=bool)
    held_out[np.linspace(0, len(train) - 1, number).round().astype(np.int64)] = True
    return train.select(~held_out), replace(train.select(held_out), split=f"{train.split}{HELD_OUT}")


def _split(splits: dict, args: SuperResolutionDataArguments, argument: str, name: str) -> HighResolutionImages:
    return _source(pick_split(splits, argument, name), args, f"{args.dataset}/{name}")


def _shared_column(args: SuperResolutionDataArguments) -> str | None:
    return None if _files(args) is not None else args.image_column


def _splits(args: SuperResolutionDataArguments, token: str | None) -> dict:
    """By split either a list of files or a table of `datasets`."""
    files = _files(args)
    return load_splits(args, token) if files is None else files


def _files(args: SuperResolutionDataArguments) -> dict[str, list[Path]] | None:
    """The images by split, where they are files by themselves and not what `datasets` reads."""
    if args.dataset == "skimage_photos":
        check_built_in(args)
        return {split: [_photo(name) for name in names.split()] for split, names in SKIMAGE_PHOTOS.items()}
    folder = Path(args.dataset)
    if folder.is_dir() and args.data_files is None and args.data_dir is None and (files := image_files(folder)):
        check_built_in(args)
        return {"train": files}
    return None


def image_files(folder: Path) -> list[Path]:
    """The images that lie in a folder itself, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _photo(name: str) -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        raise ImportError("--dataset skimage_photos needs the library scikit-image: pip install scikit-image")
    path = Path(spec.submodule_search_locations[0], "data", name)
    if not path.is_file():
        raise OSError(f"--dataset skimage_photos: this scikit-image comes without {name} ({path}).")
    return path


def _source(rows, args: SuperResolutionDataArguments, split: str) -> HighResolutionImages:
    if isinstance(rows, list):
        if args.image_column or args.low_column:
            raise ValueError(f"--{'image' if args.image_column else 'low'}_column: {split} is a folder, not a table.")
        low = _low_files(Path(args.low_folder), rows) if args.low_folder else None
        return HighResolutionImages(rows, split, np.arange(len(rows)), [path.stem for path in rows], low)
    if args.low_folder:
        raise ValueError("--low_folder goes with a folder of images; of a table name the column, --low_column.")
    import datasets

    features = rows.features
    ours = (LOW, REGIONS)
    images = [n for n, feature in features.items() if isinstance(feature, datasets.Image) and n not in ours]
    image_column = find_column("image_column", args.image_column, images, ("image", "img"), features)
    low_column = args.low_column or (LOW if LOW in features else None)
    if low_column is not None and low_column not in features:
        raise ValueError(f"--low_column: there is no {low_column!r}, the columns are {', '.join(features)}.")

    def column(name: str | None) -> Column | None:
        if name is None:
            return None
        chosen = rows.select_columns(name)
        if isinstance(features[name], datasets.Image):
            # Undecoded, so that what is wrong with a picture can be said with the row it stands in.
            chosen = chosen.cast_column(name, datasets.Image(decode=False))
        return Column(chosen, name)

    has_structure = REGIONS in features and VALUES in features
    return HighResolutionImages(
        column(image_column),
        split,
        np.arange(len(rows)),
        rows[NAME][:] if NAME in features else [str(row) for row in range(len(rows))],
        column(low_column),
        column(REGIONS) if has_structure else None,
        column(VALUES) if has_structure else None,
    )


def _low_files(folder: Path, images: list[Path]) -> list[Path]:
    if not folder.is_dir():
        raise OSError(f"--low_folder: {folder} is not a folder.")
    files = image_files(folder)
    known = {path.stem: path for path in files} | {path.name: path for path in files}
    found = []
    for image in images:
        called = [image.stem + end for end in ("", "x2", "x4", "x8")]
        # Of a.jpg and a.png each has its own.
        names = [name for stem in called for name in (stem + image.suffix, stem)]
        match = next((known[name] for name in names if name in known), None)
        if match is None:
            raise ValueError(f"--low_folder: {folder} has no image for {image.name} ({image.stem}.* or with x4 …).")
        found.append(match)
    return found
