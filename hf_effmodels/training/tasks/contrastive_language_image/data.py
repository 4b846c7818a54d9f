"""Images with captions, or with classes whose names become captions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from ...data.augment import random_resized_box
from ...data.fingerprints import facts, picture
from ...data.normalization import Normalization
from ...data.pictures import Pictures, for_evaluation, for_training, hold_out, image_column_of, same_images
from ...data.seeded import SeededDataset
from ...data.splits import Column, find_column
from .arguments import SLOT, ImagePartArguments, ImageTextArguments
from .masking import IGNORED, mask_words

#: Names of a column of captions.
CAPTIONS = ("caption", "captions", "text", "texts", "sentences")
LABELS = ("label", "labels", "class")
_SHOWN = 5


@dataclass(frozen=True)
class ImageTexts(Pictures):
    """Pictures and what is said of them.

    Attributes:
        captions: by row, a text or a list of texts; None where there are classes.
        labels: (rows,), number of each row's class; None where there are captions.
        names: of the classes.
        templates: what is said of a class, with `{}` for its name.
    """

    captions: Sequence | None = None
    labels: np.ndarray | None = None
    names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def groups(self) -> np.ndarray:
        """The rows of one image are held out together: a caption each, in some tables."""
        if self.captions is None:
            return super().groups()
        return same_images(self.images[row] for row in self.rows.tolist())

    def texts(self, index: int) -> list[str]:
        """All that is said of picture `index`."""
        row = int(self.rows[index])
        if self.labels is not None:
            return [template.replace(SLOT, self.names[self.labels[row]]) for template in self.templates]
        said = self.captions[row]
        return [said] if isinstance(said, str) else list(said or ())

    def class_number(self, index: int) -> int:
        """Number of the picture's class, -1 where there are none."""
        return -1 if self.labels is None else int(self.labels[self.rows[index]])

    def all_texts(self) -> Iterable[str]:
        """Every text once; of classes each name in each template."""
        if self.labels is not None:
            return (template.replace(SLOT, name) for name in self.names for template in self.templates)
        return (text for index in range(len(self)) for text in self.texts(index))

    def facts(self) -> dict[str, int | str]:
        parts = {"pictures": lambda index: picture(self.images[int(self.rows[index])]), "texts": self.texts}
        return facts(len(self), **parts)


def load_image_texts(args: ImageTextArguments, token: str | None = None) -> tuple[ImageTexts, ImageTexts]:
    """What to train and what to evaluate on.

    Raises:
        ValueError: missing splits or columns (with those there are), captions that are none, nothing to train on.
        OSError: a data set that cannot be found or reached.
    """
    if args.eval_templates and not args.caption_templates and not args.zero_shot_dataset:
        raise ValueError("--eval_templates goes with --caption_templates or --zero_shot_dataset.")
    train, evaluation = for_training(args, token, _read, hold_out)
    if args.caption_templates:
        if unknown := sorted(set(args.class_names) - set(_own_names(train, args))):
            raise ValueError(f"--class_names: {train.split} has no class {unknown[0]!r}.")
        evaluation = _numbered_as(train, replace(evaluation, templates=tuple(args.templates_of_classes)))
    return checked_captions(train, args), checked_captions(evaluation, args)


def load_evaluation_image_texts(args: ImageTextArguments, token: str | None = None) -> ImageTexts:
    """What to evaluate on alone, as `load_image_texts`."""
    source = for_evaluation(args, token, _read, hold_out)
    if args.caption_templates or (args.eval_templates and not args.zero_shot_dataset):
        source = replace(source, templates=tuple(args.templates_of_classes))
    return checked_captions(source, args)


def load_zero_shot(args: ImageTextArguments, token: str | None = None) -> ImageTexts | None:
    """The images with classes of `--zero_shot_dataset`, None without one."""
    if args.zero_shot_dataset is None:
        return None
    other = replace(
        args,
        dataset=args.zero_shot_dataset,
        dataset_config=args.zero_shot_config,
        eval_split=args.zero_shot_split,
        **dict.fromkeys(
            ("zero_shot_dataset", "zero_shot_config", "zero_shot_split", "dataset_revision", "data_files", "data_dir")
        ),
        **dict.fromkeys(("eval_dataset", "eval_fraction", "eval_holdout", "caption_column")),
        caption_templates=args.templates_of_classes,
    )
    other.argument = "--zero_shot_dataset"
    return for_evaluation(other, token, _read, hold_out)


def _read(rows, args: ImageTextArguments, split: str) -> ImageTexts:
    images, _ = image_column_of(rows, args, split)
    everything = np.arange(len(images))
    with_classes = args.caption_templates or (args.eval_templates and not args.zero_shot_dataset)
    if with_classes and not args.caption_column:
        labels, names = _classes(rows, args, split)
        names = tuple(args.class_names.get(name, name) for name in names)
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--class_names: two classes of {split} are called {twice[0]!r}.")
        templates = tuple(args.caption_templates or args.templates_of_classes)
        return ImageTexts(images, split, everything, labels=labels, names=names, templates=templates)
    if isinstance(rows, list):
        raise ValueError(
            f"--caption_templates is missing: {args.dataset} has classes and no captions; say what is said of them, "
            f"such as 'a photo of a {SLOT}'."
        )
    column = find_column("caption_column", args.caption_column, [], CAPTIONS, rows.features)
    return ImageTexts(images, split, everything, captions=Column(rows.select_columns(column), column))


def _classes(rows, args: ImageTextArguments, split: str) -> tuple[np.ndarray, list[str]]:
    """Number of each row's class, and the names by number."""
    if isinstance(rows, list):
        column, values, known = "label", [row["label"] for row in rows], None
        if args.label_column not in (None, column):
            raise ValueError(f"--label_column: there is no {args.label_column!r} in {split}, it is {column!r}.")
    else:
        import datasets

        features = rows.features
        typed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        column = find_column("label_column", args.label_column, typed, LABELS, features)
        known = features[column].names if isinstance(features[column], datasets.ClassLabel) else None
        values = list(rows.select_columns(column)[:][column])
    for row, value in enumerate(values):
        is_class = isinstance(value, str | int | np.integer) and not isinstance(value, bool) and value != ""
        if not is_class or (known is not None and not 0 <= value < len(known)):
            raise ValueError(f"row {row} of {split}: column {column!r} holds {value!r}, which is no class.")
    if known is not None:
        return np.asarray(values, dtype=np.int64), list(known)
    different = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    numbers = {value: number for number, value in enumerate(different)}
    return np.asarray([numbers[value] for value in values], dtype=np.int64), [str(value) for value in different]


def _own_names(source: ImageTexts, args: ImageTextArguments) -> set[str]:
    """The classes' names in the data, behind those of `--class_names`."""
    back = {new: old for old, new in args.class_names.items()}
    return {back.get(name, name) for name in source.names}


def _numbered_as(train: ImageTexts, evaluation: ImageTexts) -> ImageTexts:
    """The evaluation's classes with the training's numbers; classes that were not trained on come last."""
    if evaluation.names == train.names:
        return evaluation
    names = [*train.names, *(name for name in evaluation.names if name not in train.names)]
    table = np.asarray([names.index(name) for name in evaluation.names], dtype=np.int64)
    return replace(evaluation, labels=table[evaluation.labels], names=tuple(names))


def checked_captions(source: ImageTexts, args: ImageTextArguments) -> ImageTexts:
    """The images that something is said of; a ValueError names those of which nothing is, unless they are to be left
    out."""
    if source.labels is not None:
        return source
    bad = {}
    for index in range(len(source)):
        row = int(source.rows[index])
        said = source.captions[row]
        texts = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            bad[index] = f"row {row} ({said!r})"
    if not bad:
        return source
    shown = ", ".join([*list(bad.values())[:_SHOWN], *(["..."] if len(bad) > _SHOWN else [])])
    found = f"{len(bad)} of the {len(source)} captions of {source.split} are empty or no texts: {shown}"
    if not args.skip_empty_captions:
        raise ValueError(f"--caption_column: {found}. --skip_empty_captions true leaves them out.")
    kept = [index for index in range(len(source)) if index not in bad]
    if not kept:
        raise ValueError(f"--skip_empty_captions: {found}.")
    return source.select(kept)


@dataclass(frozen=True)
class Masking:
    """How words are masked: see `mask_words`; `marks` are the ids that are no words."""

    ratio: float
    mask_id: int
    ordinary: np.ndarray
    marks: np.ndarray


class ImageTextDataset(SeededDataset):
    """Samples `{"pixel_values": (3, side, side), "input_ids": (tokens,), "class_number": ()}`, with `masking`
    `"mlm_input_ids"` and `"mlm_labels"`, with a teacher `"teacher_input_ids"`.

    With a seed part of the image, mirroring, text and masks are drawn for every epoch anew; without, the image is as
    the processor makes it, and the text the first of a picture's own, or the next template in turn.

    Args:
        source: images and texts.
        processor: the image processor.
        encode: text -> ids.
        options: which parts are drawn.
        masking: None without masked words.
        encode_for_teacher: None without a teacher.
    """

    def __init__(
        self,
        source: ImageTexts,
        processor,
        encode: Callable[[str], list[int]],
        options: ImagePartArguments | None = None,
        masking: Masking | None = None,
        encode_for_teacher: Callable[[str], list[int]] | None = None,
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.source, self.processor, self.encode, self.options = source, processor, encode, options
        self.masking, self.encode_for_teacher = masking, encode_for_teacher
        self.normalization, self.size = Normalization.of(processor, 3), input_size(processor)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        image, texts = self.source.read(index, 3), self.source.texts(index)
        if rng is None:
            text = texts[index % len(texts) if self.source.labels is not None else 0]
            pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        else:
            text, pixels = texts[int(rng.integers(len(texts)))], self._part(image, rng)
        ids = np.asarray(self.encode(text), dtype=np.int64)
        sample = {"pixel_values": pixels, "input_ids": torch.from_numpy(ids)}
        sample["class_number"] = torch.tensor(self.source.class_number(index))
        if self.masking is not None and rng is not None:
            words = ~np.isin(ids, self.masking.marks)
            masked = mask_words(ids, words, self.masking.ratio, self.masking.mask_id, self.masking.ordinary, rng)
            sample |= dict(zip(("mlm_input_ids", "mlm_labels"), map(torch.from_numpy, masked), strict=True))
        if self.encode_for_teacher is not None and rng is not None:
            sample["teacher_input_ids"] = torch.tensor(self.encode_for_teacher(text))
        return sample

    def _part(self, image: Image.Image, rng: np.random.Generator) -> torch.Tensor:
        options = self.options
        box = random_resized_box(*image.size, options.crop_scale, options.crop_ratio, rng)
        height, width = self.size
        image = image.resize((width, height), Image.Resampling(self.processor.resample), box=box)
        if rng.random() < options.horizontal_flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.normalization(image)


def input_size(processor) -> tuple[int, int]:
    """Height and width of what an image processor makes.

    Raises:
        ValueError: images of no fixed size.
    """
    size = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else dict(processor.size)
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if size.get("shortest_edge") and getattr(processor, "do_center_crop", False):
        return size["shortest_edge"], size["shortest_edge"]
    raise ValueError(
        f"--model: its image processor makes images of no fixed size ({size}); accepted is one that crops."
    )


@dataclass(frozen=True)
class Collator:
    """Stacks samples; texts of several lengths are filled up.

    Attributes:
        pad_id: id that fills up.
        teacher_pad_id: the same of the teacher's ids.
    """

    pad_id: int
    teacher_pad_id: int = 0

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {}
        fill = {"input_ids": self.pad_id, "mlm_input_ids": self.pad_id, "mlm_labels": IGNORED}
        fill["teacher_input_ids"] = self.teacher_pad_id
        for name in samples[0]:
            values = [sample[name] for sample in samples]
            if name not in fill:
                batch[name] = torch.stack(values)
                continue
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill[name])
            if name in ("input_ids", "teacher_input_ids"):
                lengths = torch.tensor([len(value) for value in values])
                mask = torch.arange(batch[name].shape[1])[None] < lengths[:, None]
                batch[name.replace("input_ids", "attention_mask")] = mask.long()
        return batch


def encoder(tokenizer, max_length: int) -> Callable[[str], list[int]]:
    """Text -> ids of a tokenizer, cut to `max_length` with the mark of the end kept."""
    return partial(_encode, tokenizer, max_length)


def _encode(tokenizer, max_length: int, text: str) -> list[int]:
    return tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
