"""What answers look like: lines for people, JSON, tables, and pictures in a folder."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

from .._files import check_folder, whole_file
from .inputs import Input
from .predictor import Predictor

#: Endings of a file of answers -> its form, unless an option says so.
ENDINGS = {".json": "json", ".jsonl": "json", ".csv": "csv"}
#: Of an answer, what is not for JSON or a table.
_PICTURES = ("picture", "numbers", "maps")
#: What the pictures that are written say of themselves, by which the next call knows them again.
_MARK = ("Software", "hf-effmodels predict")


def on_one_line(text: str) -> str:
    """What would end a line, or steer a terminal, as it is written in Python."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def without_pictures(said: dict) -> dict:
    """Of an answer, what goes into JSON."""
    return {name: part for name, part in said.items() if name not in _PICTURES}


def in_form(form: str, predictor: Predictor) -> Callable[[str, dict], str]:
    """Writes answers one after the other: takes an input's name and what is said of it, gives the text.

    Args:
        form: "json", "csv" (with the columns' names before the first row) or "lines".
    """
    if form == "json":
        return lambda name, said: json.dumps({"input": name, **said}, ensure_ascii=False) + "\n"
    if form == "csv":
        return _Table(predictor)

    def line(name: str, said: dict) -> str:
        saved = f"  -> {said['saved']}" if "saved" in said else ""
        return f"{on_one_line(f'{name}: {predictor.line(said)}{saved}')}\n"

    return line


class _Table:
    def __init__(self, predictor: Predictor):
        self.predictor, self.has_header = predictor, False

    def __call__(self, name: str, said: dict) -> str:
        text, rows = io.StringIO(), self.predictor.rows(said)
        writer = csv.writer(text, lineterminator="\n")
        if rows and not self.has_header:
            writer.writerow(["input", *rows[0]])
            self.has_header = True
        writer.writerows([name, *row.values()] for row in rows)
        return text.getvalue()


def place_of(item: Input, folder: str) -> Path:
    """Where the picture for an input goes.

    Raises:
        FileExistsError: somebody else has written a file of that name there, which may be the input itself.
    """
    from ..images import image_name

    try:
        check_folder(folder, accepts_content=True)
    except OSError as error:
        raise type(error)(f"--save: {str(error).removeprefix('folder: ')}") from error
    file, source = Path(folder, f"{item.stem}.png"), image_name(item.value)
    if os.path.lexists(file):
        is_input = source is not None and os.path.exists(source) and os.path.samefile(file, source)
        if is_input or not _is_ours(file):
            raise FileExistsError(f"--save: {file} is there already, and not of an earlier call; name another folder.")
    return file


def save(picture, file: Path) -> Path:
    """Write a picture, marked as ours."""
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text(*_MARK)
    with whole_file(file) as new:
        picture.save(new, format="PNG", pnginfo=said)
    return file


def _is_ours(file: Path) -> bool:
    """Whether a file is a picture that an earlier call has written."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.format == "PNG" and image.info.get(_MARK[0]) == _MARK[1]
    except Exception:  # whatever PIL's parsers make of a file that is none
        return False
