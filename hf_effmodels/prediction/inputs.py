"""What is predicted on: files, folders, lines of standard input, texts."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

#: The name of standard input.
STDIN = "-"


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: what it is called in the answers.
        value: an image's path, or a text.
    """

    name: str
    value: str | Path


def find_inputs(given: Sequence[str], takes: str) -> Iterator[Input]:
    """The inputs that a command names.

    Args:
        given: files, folders (all images in them, sorted) and `-`; of models of text files with one text a line, `-`,
            and the texts themselves.
        takes: "image" or "text".

    Raises:
        ValueError: a folder without images, or with texts; an empty text; a file that is none of text. OSError: there
            is no such file.
    """
    for name in given:
        if not name.strip():
            raise ValueError("INPUT: one is empty.")
        if name == STDIN:
            yield from _lines(sys.stdin, "standard input", takes)
        elif takes == "image":
            yield from (Input(str(path), path) for path in _images(Path(name)))
        elif Path(name).is_file():
            try:
                with open(name, encoding="utf-8") as file:
                    yield from _lines(file, name, takes)
            except UnicodeDecodeError as error:
                raise ValueError(f"INPUT: {name} is no file of text in UTF-8 ({error.reason}).") from None
        elif Path(name).is_dir():
            raise ValueError(f"INPUT: {name} is a folder; accepted are texts, and files with one text a line.")
        else:
            yield Input(name, name)


def check_inputs(given: Sequence[str], takes: str) -> None:
    """Raises what `find_inputs` would, before anything is predicted."""
    for name in given:
        if name != STDIN:
            for _ in find_inputs([name], takes):  # texts to their ends, too
                pass


def _lines(file, where: str, takes: str) -> Iterator[Input]:
    for number, line in enumerate(file, 1):
        text = line.rstrip("\n")
        if text.strip():
            yield Input(text, Path(text)) if takes == "image" else Input(f"{where}:{number}", text)


def _images(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise OSError(f"INPUT: there is no file or folder {str(path)!r}.")
    Image.init()
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in Image.EXTENSION)
    if not found:
        raise ValueError(f"INPUT: there are no images in {path}.")
    return found
