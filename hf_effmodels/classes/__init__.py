"""Names of the classes of well-known data sets, in the order of the published checkpoints' heads.

A file of this folder is a data set: `#` begins a line that says where the names are from. ImageNet's lines begin with
the class's WordNet number, by which its folders are called.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

#: Data sets whose names are here: the files of this folder.
KNOWN = ("ade20k", "cifar-10", "cifar-100", "coco-stuff", "imagenet-1k", "pascal-context-60")


@cache
def _lines(dataset: str) -> tuple[str, ...]:
    if dataset not in KNOWN:
        raise ValueError(f"classes: got {dataset!r}, accepted are {', '.join(map(repr, KNOWN))}.")
    text = files(__name__).joinpath(f"{dataset}.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def class_names(dataset: str) -> list[str]:
    """Names of a data set's classes, by number; no two are equal. ValueError for a data set not in `KNOWN`."""
    lines = _lines(dataset)
    return [line.partition(" ")[2] for line in lines] if dataset == "imagenet-1k" else list(lines)


def in_words(names: Sequence[str]) -> list[str]:
    """ImageNet's classes by their words, where a data set calls them otherwise; other names as they are.

    Folders of ImageNet, or of some of its classes, are called by WordNet numbers ("n01440764"). A thousand names of
    which all but a few are ImageNet's own, or the first of its words, at their places ("tench", "great_white_shark")
    are ImageNet's, too: some lists tell its two cranes apart in another way.
    """
    words = class_names("imagenet-1k")
    by_number = {line.partition(" ")[0]: word for line, word in zip(_lines("imagenet-1k"), words, strict=True)}
    if names and set(names) <= by_number.keys():
        return [by_number[name] for name in names]
    if len(names) == len(words):
        pairs = zip(map(_comparable, names), map(_comparable, words), strict=True)
        if sum(name not in (word, word.partition(",")[0]) for name, word in pairs) <= _OTHERWISE:
            return words
    return list(names)


#: So many of a thousand names may be spelt in a way of their own.
_OTHERWISE = 20


def _comparable(name: str) -> str:
    return name.replace("_", " ").strip().lower()
