"""Images with boxes: from the Hub, `imagefolder`, COCO's JSON files, YOLO's folders, and digits on a canvas."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...data.digit_canvases import CANVASES, digit_canvas
from ...data.digits import DIGITS
from ...data.errors import SampleError, of_sample
from ...data.fingerprints import facts, picture
from ...data.images import ImageSplitArguments, read_image, where
from ...data.splits import HELD_OUT, evaluation_split, find_column, load_splits, number_held_out, pick_split

logger = logging.getLogger(__name__)

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_CATEGORIES = ("category", "category_id", "categories", "label", "labels", "class")


@dataclass
class DetectionDataArguments(ImageSplitArguments):
    """Which images with boxes."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a data set of the Hub, a folder, or digits.",
            "help": "A data set on the Hub, or a folder: with COCO's annotations (--annotations), in YOLO's form (a "
            "data.yaml), or for imagefolder; or digits: handwritten digits on canvases.",
        },
    )
    annotations: str | None = field(
        default=None,
        metadata={
            "help": "COCO's JSON file of the training split, in the folder --dataset or anywhere; {split} in it "
            "stands for the split's name."
        },
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "With --annotations: folder of the images; {split} stands for the split's name."},
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images."})
    objects_column: str | None = field(
        default=None, metadata={"help": "Column of the objects: bbox, category, and where known iscrowd and area."}
    )
    box_format: str = field(
        default="coco",
        metadata={
            "choices": ["coco", "corners", "yolo"],
            "help": "Boxes of a table: coco (x, y, width, height in pixels), corners (x1, y1, x2, y2 in pixels) or "
            "yolo (centre x, y, width, height relative to the image).",
        },
    )


@dataclass(frozen=True)
class DetectionImages:
    """Images with boxes, read when asked for.

    Attributes:
        rows: number of each image in its table.
        image: row -> what `read_image` takes.
        objects: row -> (boxes (n, 4) as corners in pixels, classes (n,), crowd (n,)), given (width, height).
        names: of the classes.
        split: for messages.
        numbers: the number under which each class is read, where it is that of a model (`classes.numbered_as`).
    """

    rows: Sequence[int]
    image: Callable
    objects: Callable
    names: list[str]
    split: str
    numbers: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, numbers: Sequence[int]) -> "DetectionImages":
        return replace(self, rows=[self.rows[number] for number in numbers])

    def facts(self) -> dict[str, int | str]:
        """How many samples, and fingerprints of their pictures and boxes, see `data.fingerprints`."""
        return facts(len(self), pictures=lambda n: picture(self.image(self.rows[n])), boxes=self._annotation)

    def _annotation(self, number: int):
        try:
            boxes, classes, crowd = self.objects(self.rows[number], (1, 1))
            parts = (boxes, classes) if crowd is None or not np.any(crowd) else (boxes, classes, crowd)
            return np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1) for part in parts])
        except (ValueError, TypeError, KeyError, IndexError, OSError):
            return "cannot be read"  # said where it is used

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (height, width, 3) of bytes, boxes (n, 5) as class and corners in pixels, and which are crowds.

        Boxes are clipped to the image and left out where nothing of them is inside it.

        Raises:
            ValueError, OSError: an image or annotations that cannot be read; names the row.
        """
        row = self.rows[number]
        value = None
        try:
            value = self.image(row)
            image = np.asarray(read_image(value))
        except (ValueError, OSError) as error:
            raise of_sample(error, where(row, self.split, value)) from error
        height, width = image.shape[:2]
        try:
            boxes, classes, crowd = self.objects(row, (width, height))
            boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
            classes = np.asarray(classes, dtype=np.float64).reshape(-1)
            crowd = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, dtype=bool).reshape(-1)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise SampleError(f"{where(row, self.split, value)}: its boxes cannot be read ({error!r})") from error
        if not len(boxes) == len(classes) == len(crowd):
            raise SampleError(
                f"{where(row, self.split, value)}: {len(boxes)} boxes, {len(classes)} classes, {len(crowd)} marks of "
                "crowds"
            )
        wrong = ~np.isfinite(boxes).all(1)
        if wrong.any():
            box = boxes[wrong][0].tolist()
            raise SampleError(f"{where(row, self.split, value)}: a box is {box}, accepted are finite numbers")
        outside = (classes < 0) | (classes >= len(self.names)) | (classes != np.floor(classes))
        if outside.any():
            raise SampleError(
                f"{where(row, self.split, value)}: a class is {classes[outside][0]:g}, accepted are whole numbers "
                f"from 0 to {len(self.names) - 1}"
            )
        if self.numbers is not None:
            classes = np.asarray(self.numbers, dtype=np.float64)[classes.astype(np.int64)]
        boxes = boxes.clip(0, [width, height, width, height])
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return image, np.concatenate([classes[keep, None], boxes[keep]], axis=1), crowd[keep]


def load_data(args: DetectionDataArguments, token: str | None) -> tuple[DetectionImages, DetectionImages]:
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


def load_evaluation_data(args: DetectionDataArguments, token: str | None) -> DetectionImages:
    """What to evaluate on, without a training."""
    if args.eval_dataset is not None:
        args = args.of_eval_dataset()
    splits = _splits(args, token)
    name = evaluation_split(args, list(splits), alone=True)
    if name is not None:
        return _fewer(splits[name], args.max_eval_samples)
    train = pick_split(splits, "--train_split", args.train_split)
    return _fewer(_hold_out(args, train)[1], args.max_eval_samples)


def _hold_out(args: DetectionDataArguments, train: DetectionImages) -> tuple[DetectionImages, DetectionImages]:
    """The rest, and what is evaluated on."""
    count = number_held_out(args, len(train), train.split)
    held_out = set(np.random.default_rng(0).permutation(len(train))[:count].tolist())
    rest = train.select([number for number in range(len(train)) if number not in held_out])
    return rest, replace(train.select(sorted(held_out)), split=f"{train.split}{HELD_OUT}")


def _fewer(source: DetectionImages, most: int | None) -> DetectionImages:
    if most is None or most >= len(source):
        return source
    return source.select(np.linspace(0, len(source) - 1, most).round().astype(int).tolist())


def _splits(args: DetectionDataArguments, token: str | None) -> dict[str, DetectionImages]:
    if args.dataset == DIGITS:
        return {split: _digits(split, count) for split, count in CANVASES.items()}
    folder = Path(args.dataset)
    if args.annotations is not None:
        return _coco(args, folder)
    if (folder / "data.yaml").is_file():
        return _yolo(folder)
    splits = load_splits(args, token, known=(DIGITS,))
    return {name: _table(rows, f"{args.dataset}/{name}", args) for name, rows in splits.items()}


# digits


def _digits(split: str, count: int) -> DetectionImages:
    def objects(row: int, size):
        boxes = digit_canvas(split, row)[1]
        return boxes[:, 1:], boxes[:, 0], None

    names = [str(number) for number in range(10)]
    return DetectionImages(range(count), lambda row: digit_canvas(split, row)[0], objects, names, f"{DIGITS}/{split}")


# COCO's JSON files


def _coco(args: DetectionDataArguments, folder: Path) -> dict[str, DetectionImages]:
    splits = {}
    candidates = [
        args.train_split,
        *([args.eval_split] if args.eval_split else ["validation", "valid", "val", "test"]),
    ]
    for split in candidates if "{split}" in args.annotations else [args.train_split]:
        file = Path(args.annotations.replace("{split}", split))
        file = file if file.is_absolute() or file.is_file() else folder / file
        if not file.is_file():
            if split in (args.train_split, args.eval_split):
                raise FileNotFoundError(f"--annotations: there is no file {file}.")
            continue
        images = Path((args.image_folder or "").replace("{split}", split))
        splits[split] = _coco_split(
            file, images if images.is_absolute() else folder / images, f"{args.dataset}/{split}"
        )
    return splits


def _coco_split(file: Path, folder: Path, split: str) -> DetectionImages:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        images = {int(i["id"]): str(i["file_name"]) for i in content["images"]}
        annotations: dict[int, list] = {number: [] for number in images}
        for row, item in enumerate(content["annotations"]):
            missing = [name for name in ("image_id", "category_id", "bbox") if name not in item]
            if missing:
                raise ValueError(f"annotation {row} (id {item.get('id')}) has no {missing[0]}")
            if item["image_id"] not in annotations:
                raise ValueError(f"annotation {row} is of image {item['image_id']}, which is not among the images")
            if item["category_id"] not in categories:
                raise ValueError(f"annotation {row} is of category {item['category_id']}, which is not listed")
            if len(item["bbox"]) != 4:
                raise ValueError(f"annotation {row}: bbox is {item['bbox']}, accepted are four numbers")
            annotations[item["image_id"]].append(item)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"--annotations: {file} is no file of COCO's annotations: {reason}.") from error
    # Ids have gaps (COCO's 80 classes go to 90): classes are numbered in the order of their ids.
    numbers = {number: index for index, number in enumerate(sorted(categories))}
    keys = sorted(images)

    def objects(row: int, size):
        items = annotations[keys[row]]
        boxes = np.array([item["bbox"] for item in items], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        crowd = [bool(item.get("iscrowd", 0)) for item in items]
        return boxes, [numbers[item["category_id"]] for item in items], crowd

    names = [categories[number] for number in sorted(categories)]
    return DetectionImages(range(len(keys)), lambda row: str(folder / images[keys[row]]), objects, names, split)


# YOLO's folders


def _yolo(folder: Path) -> dict[str, DetectionImages]:
    import yaml

    try:
        content = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
        names = content["names"]
        names = [names[key] for key in sorted(names)] if isinstance(names, dict) else list(names)
        root = folder / content.get("path", "")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--dataset: {folder / 'data.yaml'} does not name the classes ({error!r}).") from error
    splits = {}
    for split in ("train", "val", "test"):
        if not content.get(split):
            continue
        place = root / str(content[split])
        if not place.is_dir():
            raise FileNotFoundError(f"--dataset: {folder / 'data.yaml'}: there is no folder {place} ({split}).")
        files = sorted(path for path in place.rglob("*") if path.suffix.lower() in _IMAGES)
        splits[split] = DetectionImages(
            range(len(files)),
            _path_of(files),
            _yolo_objects(files),
            [str(name) for name in names],
            f"{folder}/{split}",
        )
    if not splits:
        raise ValueError(f"--dataset: {folder / 'data.yaml'} names neither train nor val nor test.")
    return splits


def _path_of(files: list[Path]) -> Callable:
    return lambda row: str(files[row])


def _yolo_objects(files: list[Path]) -> Callable:
    def objects(row: int, size):
        parts = list(files[row].parts)
        if "images" in parts:  # the folder "labels" lies beside it
            parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        file = Path(*parts).with_suffix(".txt")
        lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
        rows = []
        for number, line in enumerate(lines, 1):
            if not (words := line.split()):
                continue
            if len(words) != 5:
                raise ValueError(
                    f"{file}, line {number}: {line!r:.60}, accepted are class, centre x, y, width, height"
                )
            rows.append([float(word) for word in words])
        values = np.array(rows).reshape(-1, 5)
        return _from_relative(values[:, 1:], size), values[:, 0], None

    return objects


def _from_relative(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scale = np.array([*size, *size])
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1) * scale


# tables


def _table(rows, split: str, args: DetectionDataArguments) -> DetectionImages:
    from datasets import Image

    features = rows.features
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    image = find_column("image_column", args.image_column, typed, ("image", "img"), features)
    column = find_column("objects_column", args.objects_column, [], ("objects", "annotations"), features)
    inner = _fields(features[column])
    category = next((name for name in _CATEGORIES if name in inner), None)
    if "bbox" not in inner or category is None:
        raise ValueError(
            f"--objects_column: {column} has {', '.join(inner)}, accepted is a column with bbox and category."
        )
    names = _names(inner[category])
    if names is None:
        numbers = [number for row in rows[column] for number in _values(row, category)]
        names = [str(number) for number in range(int(max(numbers, default=0)) + 1)]
    rows = rows.cast_column(image, Image(decode=False)) if typed else rows
    convert = {"coco": _from_coco, "corners": lambda boxes, size: boxes, "yolo": _from_relative}[args.box_format]

    def objects(row: int, size):
        found = rows[row][column]
        boxes = np.array(_values(found, "bbox"), dtype=np.float64).reshape(-1, 4)
        crowd = _values(found, "iscrowd") if "iscrowd" in inner else None
        return convert(boxes, size), _values(found, category), crowd

    return DetectionImages(range(len(rows)), lambda row: rows[row][image], objects, names, split)


def _fields(feature) -> dict:
    """The fields of a column of objects: a struct of lists, or a list of structs."""
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) else inner
    return dict(inner) if isinstance(inner, dict) else {}


def _names(feature) -> list[str] | None:
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if getattr(inner, "names", None) else None


def _values(found, name: str) -> list:
    if isinstance(found, dict):
        return found.get(name) or []
    return [item[name] for item in found or []]


def _from_coco(boxes: np.ndarray, size) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
