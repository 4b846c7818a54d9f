"""JSON files and the images they name."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .arguments import VisionLanguageDataArguments


def read_json(file: str | Path, argument: str, accepted: type = object):
    """A JSON file; OSError or ValueError as of `argument` where there is none, it is not valid or holds something
    else than is accepted."""
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {str(file)!r}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{argument}: {file} is not valid JSON ({error}).") from None
    if not isinstance(content, accepted):
        raise ValueError(f"{argument}: {file} holds a {type(content).__name__}, accepted is a {accepted.__name__}.")
    return content


def annotation_files(args: VisionLanguageDataArguments) -> dict[str | None, str]:
    """Split -> its file; one file for all splits has the key None."""
    if isinstance(args.data_files, dict):
        return {str(split): file for split, file in args.data_files.items()}
    if args.data_files is not None:
        return {None: args.data_files}
    if os.path.isfile(args.dataset):
        return {None: args.dataset}
    raise ValueError(
        f"--data_files is missing: {args.dataset!r} is no file. Give the annotations as a path or as a mapping of "
        'splits to paths, such as \'{"train": "train.json", "test": "test.json"}\'.'
    )


def lazily(entries: dict, read: Callable) -> dict[str, Callable]:
    """Split -> what makes samples of its entries, when it is called."""
    return {name: lambda name=name, rows=rows: read(name, rows) for name, rows in entries.items()}


def check_images(paths: Iterable[Path], split: str) -> None:
    """OSError with the first image that is not there, and how many are missing."""
    missing = [path for path in dict.fromkeys(paths) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{split}: {len(missing)} images are missing, the first is {str(missing[0])!r}. --image_folder is the "
            "folder their names are relative to."
        )
