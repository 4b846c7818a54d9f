"""What is predicted on: files, folders, lines of standard input, texts."""

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

#: The name of standard input.
STDIN = "-"


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: what it is called in the answers.
        value: whatever `images.read_image` takes, or a text; None where a data set has none.
        stem: of the picture's name that is written for it.
    """

    name: str
    value: Any
    stem: str = ""


@dataclass(frozen=True)
class Numbered:
    """Inputs by number.

    Attributes:
        count: how many there are.
        get: number -> input, read then.
        stem: number -> that of the input.
        facts: what they are known again by, see `training.data.fingerprints`.
    """

    count: int
    get: Callable[[int], Input]
    stem: Callable[[int], str]
    facts: Callable[[], dict]


def numbered(items: Iterable[Input], takes: str) -> Numbered:
    """Inputs that have been found, all of them, by number."""
    from ..training.data.fingerprints import facts, picture

    found = list(items)
    content = picture if takes == "image" else lambda text: text

    def known_by() -> dict:
        return facts(len(found), names=lambda n: found[n].name, content=lambda n: content(found[n].value))

    return Numbered(len(found), found.__getitem__, lambda number: found[number].stem, known_by)


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
            yield from (Input(str(path), path, path.stem) for path in _images(Path(name)))
        elif os.path.isfile(name):  # `Path.is_file` raises where a text is too long for the name of a file
            try:
                with open(name, encoding="utf-8") as file:
                    yield from _lines(file, name, takes)
            except UnicodeDecodeError as error:
                raise ValueError(f"INPUT: {name} is no file of text in UTF-8 ({error.reason}).") from None
        elif os.path.isdir(name):
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
            picture = takes == "image"
            yield Input(text, Path(text), Path(text).stem) if picture else Input(f"{where}:{number}", text)


def with_stems_of_their_own(items: Iterable[Input]) -> Iterator[Input]:
    """The inputs, so that what is written for files of one name from different folders does not replace each other."""
    taken: set[str] = set()
    for item in items:
        possible = itertools.chain([item.stem], (f"{item.stem}-{number}" for number in itertools.count(2)))
        stem = next(name for name in possible if name not in taken)
        taken.add(stem)
        yield replace(item, stem=stem)


def _images(path: Path) -> list[Path]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise OSError(f"INPUT: there is no file or folder {str(path)!r}.")
    Image.init()
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in Image.EXTENSION)
    if not found:
        raise ValueError(f"INPUT: there are no images in {path}.")
    return found
