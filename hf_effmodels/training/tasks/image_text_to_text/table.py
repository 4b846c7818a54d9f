"""Any table with questions and answers, and images or none."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ...data.pictures import same_images
from .arguments import VisionLanguageDataArguments
from .samples import Sample, Samples


def from_rows(rows, args: VisionLanguageDataArguments, split: str) -> Samples:
    """Of the columns that the arguments name, or of the digits (`{"image", "label"}` rows).

    Raises:
        ValueError: no such columns.
    """
    if isinstance(rows, list):
        return Samples.of(rows, partial(_digit, args=args), split)
    import datasets

    needed = [args.answer_column] if args.question else [args.question_column, args.answer_column]
    for argument, name in zip(("answer_column", "question_column"), reversed(needed), strict=False):
        if name not in rows.features:
            raise ValueError(f"--{argument}: {split} has no {name!r}, its columns are {', '.join(rows.features)}.")
    image_column = args.image_column
    if image_column is None:
        typed = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        if len(typed) > 1:
            raise ValueError(f"--image_column: could be any of {', '.join(typed)}; say which.")
        image_column = typed[0] if typed else None
    elif image_column not in rows.features:
        raise ValueError(
            f"--image_column: {split} has no {image_column!r}, its columns are {', '.join(rows.features)}."
        )
    if image_column is not None:
        rows = undecoded(rows, image_column)
    feature = rows.features[args.answer_column]
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    rows = rows.select_columns([*needed, *([image_column] if image_column else [])])
    samples = Samples.of(rows, partial(_from_row, args=args, image_column=image_column, names=names), split)
    return samples if image_column is None else replace(samples, groups=partial(_by_image, rows, image_column))


def _by_image(rows, column: str) -> np.ndarray:
    return same_images(row[column] for row in rows.select_columns(column))


def _digit(row: dict, args: VisionLanguageDataArguments) -> Sample:
    return _sample(args, args.question or "Which digit is this?", row["label"], row["image"])


def _from_row(
    row: dict, args: VisionLanguageDataArguments, image_column: str | None, names: list[str] | None
) -> Sample:
    answer = row[args.answer_column] if names is None else names[row[args.answer_column]]
    image = row[image_column] if image_column else None
    return _sample(args, args.question or row[args.question_column], answer, _from_folder(image, args))


def undecoded(rows, column: str):
    """The rows with the bytes of their images, so that what is wrong with one can be said with its row."""
    import datasets

    if isinstance(rows.features[column], datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _from_folder(image, args: VisionLanguageDataArguments):
    if isinstance(image, str) and args.image_folder:
        return Path(args.image_folder, image)
    return image or None


def _sample(args: VisionLanguageDataArguments, question, answer, image) -> Sample:
    for name, text in (("question", question), ("answer", answer)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"its {name} is {text!r}, accepted are texts that are not empty.")
    prompt = args.prompt_template.replace("{question}", question)
    return Sample(((prompt, answer),), image, references=(answer,))
