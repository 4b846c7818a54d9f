"""The command, and the table it writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from ....hub.checkpoints import check_model
from ....hub.ids import check_place, reading
from ....hub.whole import load_whole
from ...data.classes import model_classes
from ...data.fingerprints import weights_fingerprint
from ...data.images import check_processor, usable
from ...data.label_maps import CLASSES, PICTURE, ROW, SCORES, SETTINGS_FILE, picture_key
from ...data.normalization import Normalization, with_channels
from ...data.pictures import Pictures
from ...data.processors import load_image_processor
from ...data.stored_tables import TableWriter, check_output
from ...run.arguments import ArgumentReader
from ...run.values import check_fields
from ...task import load_task
from .official import official_files, read_official
from .places import PlaceClassifier

_TASKS = ("image-classification", "distillation")
_STUDENT = load_task("image-classification")
_DISTILLATION = load_task("distillation")
_MISSING = "--teacher is missing: name an image classifier on the Hub or in a local folder."


@dataclass
class LabelMapTableArguments:
    """What to store, and where."""

    output: str | None = field(
        default=None, metadata={"help": "Folder of the table; by default the one that --label_maps names."}
    )
    top_k: int = field(
        default=5, metadata={"accepts": "[1, inf)", "help": "Largest logits to keep of each place; published: 5."}
    )
    teacher_image_size: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 65536]",
            "help": "Side of the square that pictures are resized to as a whole; by default the teacher's own.",
        },
    )
    label_precision: Literal["float16", "float32"] = field(default="float16", metadata={"help": "Of the logits."})
    batch_size: int = field(default=32, metadata={"accepts": "[1, inf)", "help": "Pictures at a time."})
    shard_size: int = field(
        default=4096, metadata={"accepts": "[1, inf)", "help": "Pictures in a file; a kill loses at most so many."}
    )
    official_maps: str | None = field(
        default=None,
        metadata={"help": "Instead of a teacher: a folder of the published maps (relabel_imagenet.tar)."},
    )

    def __post_init__(self):
        check_fields(self)


@dataclass
class AnnotatorArguments:
    """The classifier that makes the maps. Recipes of the task distillation have these keys."""

    teacher: str | None = field(default=None, metadata={"help": "An image classifier on the Hub or in a folder."})
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the teacher on the Hub."}
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Type of the teacher's weights; auto is the one they are stored in."}
    )

    def __post_init__(self):
        check_fields(self)


#: Argument -> the Auto class that has a head for the model in a folder that it names.
HEADS = {"teacher": "AutoModelForImageClassification"}
#: What the command line is read into: with a recipe of the one task, and of the other.
ARGUMENTS = (LabelMapTableArguments, AnnotatorArguments, *_STUDENT.TRAINING_ARGUMENTS)
DISTILLATION_ARGUMENTS = (LabelMapTableArguments, *_DISTILLATION.TRAINING_ARGUMENTS[:1], *_STUDENT.TRAINING_ARGUMENTS)


def main(argv: Sequence[str]) -> Path:
    """Write the table as the arguments say.

    Returns:
        The folder of the table.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    reader = ArgumentReader(list(argv))
    if reader.task not in _TASKS:
        raise ValueError(f"--task: got {reader.task}, accepted are {' and '.join(_TASKS)}.")
    types = DISTILLATION_ARGUMENTS if reader.task == _TASKS[1] else ARGUMENTS
    args, teacher, model_args, data_args, _, training = reader.read(*types)
    output = args.output or training.label_maps
    if not output:
        raise ValueError("--output is missing: name a folder for the table.")
    if args.official_maps is None:
        _check_teacher(teacher)
    elif teacher.teacher:
        raise ValueError("--official_maps and --teacher exclude each other.")
    source, _ = _STUDENT.load_data(data_args, model_args.token)
    if args.official_maps is not None:
        source = usable(source, partial(source.read, num_channels=3), data_args)
        settings, make = _official(args, source)
    else:
        settings, make, channels = _annotated(args, teacher, model_args, training)
        source = usable(source, partial(source.read, num_channels=channels), data_args)
        if source.names is not None:
            model_classes(source.names, settings["classes"])
    if args.top_k > len(settings["classes"]):
        raise ValueError(
            f"--top_k: got {args.top_k}, accepted are numbers up to that of the classes, {len(settings['classes'])}."
        )
    settings |= {"precision": args.label_precision, "shard_size": args.shard_size, "samples": len(source)}
    settings |= {"pictures": source.facts()["pictures"]}
    check_output(Path(output), settings, SETTINGS_FILE)
    return _write(Path(output), source, settings, make)


def _check_teacher(arguments) -> None:
    if not arguments.teacher:
        raise ValueError(_MISSING)
    if not isinstance(arguments.teacher, str):
        raise ValueError(f"--teacher: got {len(arguments.teacher)} of them, accepted is one that makes the maps.")
    check_place("--teacher", arguments.teacher, revision=("--teacher_revision", arguments.teacher_revision))


def _annotated(args: LabelMapTableArguments, teacher, model_args, training) -> tuple[dict, Callable, int]:
    """Settings of a teacher's maps, what makes the maps of some rows, and the channels of its pictures."""
    hub = {"token": model_args.token, "trust_remote_code": model_args.trust_remote_code}
    said = ("--teacher_revision", teacher.teacher_revision)
    options = {"revision": said, "dtype": teacher.teacher_dtype, **hub}
    model = load_whole(AutoModelForImageClassification, "--teacher", teacher.teacher, **options)
    with reading("--teacher", teacher.teacher, revision=said):
        processor = load_image_processor(teacher.teacher, model.config, revision=teacher.teacher_revision, **hub)
    check_processor("--teacher", processor)
    channels = getattr(model.config, "num_channels", 3)
    processor = with_channels(processor, channels)
    size = args.teacher_image_size or _side(processor)
    square = _Square(size, processor.resample, Normalization.of(processor, channels))
    device, parameter = training.device, next(model.parameters())
    check_model("--teacher", model)
    model.eval().requires_grad_(False).to(device)
    example = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    try:
        places = PlaceClassifier(model, example.to(device, parameter.dtype))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--teacher: {teacher.teacher} with pictures of {size}×{size}: {error}") from error
    settings = {
        "classes": [model.config.id2label[number] for number in range(model.config.num_labels)],
        "teacher": teacher.teacher,
        "revision": teacher.teacher_revision,
        **weights_fingerprint(model),
        "image_size": size,
        "top_k": args.top_k,
        "map_size": [*places.grid],
        "axis_order": "row_major",
    }

    def make(source: Pictures, numbers: range, advance: Callable[[int], object]):
        loader = DataLoader(
            _Squares(source, numbers, square, channels),
            batch_size=args.batch_size,
            num_workers=training.dataloader_num_workers,
        )
        for pixels in loader:
            kept = places(pixels.to(device, parameter.dtype)).float().topk(args.top_k, dim=1)
            advance(len(pixels))
            yield kept.values.cpu(), kept.indices.cpu()

    return settings, make, channels


def _official(args: LabelMapTableArguments, source) -> tuple[dict, Callable]:
    files = official_files(args.official_maps, source)
    shape = read_official(files[0])[0].shape
    count = len(source.names) if source.names is not None else int(source.numbers[-1]) + 1
    settings = {
        # By their numbers: the files have no names for them.
        "classes": [str(number) for number in range(count)],
        "teacher": "relabel_imagenet",
        "top_k": shape[0],
        "map_size": [*shape[1:]],
        "axis_order": "published",
    }

    def make(source: Pictures, numbers: range, advance: Callable[[int], object]):
        for number in numbers:
            scores, classes = read_official(files[number])
            if scores.shape != shape or not 0 <= int(classes.min()) <= int(classes.max()) < count:
                raise ValueError(
                    f"--official_maps: {files[number]} has a map of shape {tuple(scores.shape)} with classes up to "
                    f"{int(classes.max())}, accepted are {tuple(shape)} and {count} classes."
                )
            advance(1)
            yield scores[None], classes[None]

    return settings, make


def _write(output: Path, source: Pictures, settings: dict, make: Callable) -> Path:
    import pyarrow as pa

    table = TableWriter(output, len(source), settings["shard_size"], settings, SETTINGS_FILE)
    missing = table.missing()
    kind = np.int16 if len(settings["classes"]) < 2**15 else np.int32
    with tqdm(total=len(source), unit="picture", disable=None) as progress:
        progress.update(len(source) - sum(map(len, missing.values())))
        for name, numbers in missing.items():
            made = [*make(source, numbers, progress.update)]
            scores = torch.cat([scores for scores, _ in made]).numpy().astype(settings["precision"])
            classes = torch.cat([classes for _, classes in made]).numpy().astype(kind)
            rows = source.rows[numbers.start : numbers.stop]
            columns = {ROW: pa.array(rows), PICTURE: pa.array([picture_key(source.images[int(row)]) for row in rows])}
            for column, values in ((SCORES, scores), (CLASSES, classes)):
                flat = pa.array(values.reshape(-1))
                columns[column] = pa.FixedSizeListArray.from_arrays(flat, values[0].size)
            table.write(name, columns)
    return table.finish()


@dataclass(frozen=True)
class _Square:
    """A picture as a whole, resized to a square, as the teacher takes it."""

    size: int
    resample: int
    normalization: Normalization

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.normalization(image.resize((self.size, self.size), self.resample))


@dataclass(frozen=True)
class _Squares(Dataset):
    source: Pictures
    numbers: range
    square: _Square
    channels: int

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.square(self.source.read(self.numbers[index], self.channels))


def _side(processor) -> int:
    """Of the square that the processor makes of a picture."""
    picture = np.zeros((64, 64, len(processor.image_mean or [0.0] * 3)), dtype=np.uint8)
    height, width = processor(picture, return_tensors="pt", input_data_format="channels_last")["pixel_values"].shape[
        -2:
    ]
    if height != width:
        raise ValueError(f"--teacher: it takes pictures of {height}×{width}; --teacher_image_size gives a square.")
    return height
