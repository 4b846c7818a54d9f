"""Which class of a model each class of a data set is: by name, and by position only where names say nothing."""

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...classes import in_words

logger = logging.getLogger(__name__)

#: How many names a message tells at most, and in how many characters, but three of any length.
_SHOWN, _CHARACTERS = 20, 120
_NUMBER = re.compile(r"(?:LABEL_)?(\d+)", re.IGNORECASE)


def model_classes(names: Sequence[str], own: Sequence[str]) -> list[int]:
    """The number of the model's class for each class of a data set.

    Args:
        names: of the data set's classes, by number.
        own: of the model's, by number.

    Raises:
        ValueError: the names do not say it, and neither side is without names of its own (`LABEL_3`, bare numbers).
    """
    names, own = in_words(names), in_words(own)
    if names == own:
        return list(range(len(own)))
    if set(names) <= set(own):
        twice = [name for name in names if own.count(name) > 1]
        if twice:
            raise ValueError(f"--label_mapping: the model has two classes called {twice[0]!r}.")
        return [own.index(name) for name in names]
    if len(names) == len(own):
        ours, theirs = _positions(names), _positions(own)
        if ours is not None or theirs is not None:
            order = {position: number for number, position in enumerate(theirs or range(len(own)))}
            numbers = [order[position] for position in (ours or range(len(names)))]
            pairs = [f"{name} = {own[number]}" for name, number in zip(names, numbers, strict=True)]
            logger.warning("one side has no names for its classes: matched by their numbers (%s).", shown(pairs))
            return numbers
    raise ValueError(
        f"the data set's classes ({len(names)}: {shown(names)}) are not the model's ({len(own)}: {shown(own)}). "
        f"--label_mapping says which is which, such as '{{{names[0]}: {own[0]}}}'."
    )


def numbered_as(source, own: Sequence[str], remedy: str):
    """A source of dense labels with its classes numbered as those of a model.

    Args:
        source: a data class with `names`, which a model has as many of, and `numbers` (the model's number of each, or
            None), by which it reads.
        own: the model's classes, by number.
        remedy: what the message of the error ends with: which argument says the names.

    Raises:
        ValueError: the names do not say which class is which, and neither side is without names of its own.
    """
    try:
        numbers = model_classes(source.names, own)
    except ValueError:
        raise ValueError(
            f"the data set's classes ({shown(source.names)}) are not the model's ({shown(own)}). {remedy}"
        ) from None
    if numbers == list(range(len(own))):
        return source
    return replace(source, names=list(own), numbers=tuple(numbers))


def same_classes(names: Sequence[str], own: Sequence[str]) -> bool:
    """Whether both sides have the same names, in whatever order."""
    return sorted(in_words(names)) == sorted(in_words(own))


def is_generic(names: Sequence[str]) -> bool:
    """Whether names of classes say nothing but their number."""
    return _positions(names) is not None


def _positions(names: Sequence[str]) -> list[int] | None:
    """Where each class stands, if the names are nothing but the numbers 0 to n - 1, or 1 to n."""
    matches = [_NUMBER.fullmatch(name) for name in names]
    if not all(matches):
        return None
    numbers = [int(match[1]) for match in matches]
    first = min(numbers, default=0)
    if first > 1 or sorted(numbers) != [*range(first, first + len(numbers))]:
        return None
    return [number - first for number in numbers]


def mapped_names(names: Sequence[str], mapping: Mapping, split: str, strict: bool) -> tuple[list[str], np.ndarray]:
    """Classes under the names that `--label_mapping` gives them, and the new number of each old one; several old ones
    may become one.

    Raises:
        ValueError: with `strict`: there is no such class.
    """
    mapping = {str(name): str(new) for name, new in mapping.items()}
    unknown = [name for name in mapping if name not in names]
    if unknown and strict:
        near = difflib.get_close_matches(unknown[0], names, n=3)
        hint = f"nearest: {', '.join(near)}" if near else f"there are {shown(names)}"
        raise ValueError(f"--label_mapping: {split} has no class {unknown[0]!r}; {hint}.")
    new = [mapping.get(name, name) for name in names]
    kept = list(dict.fromkeys(new))
    return kept, np.asarray([kept.index(name) for name in new], dtype=np.int64)


def shown(names: Sequence[str]) -> str:
    """Names for a message, the first of them; with semicolons between names that have commas themselves."""
    first = [name for number, name in enumerate(names[:_SHOWN]) if number < 3 or _is_short(names[: number + 1])]
    mark = "; " if any("," in name for name in first) else ", "
    return mark.join([*first, *(["..."] if len(first) < len(names) else [])])


def _is_short(names: Sequence[str]) -> bool:
    return sum(map(len, names)) + 2 * len(names) <= _CHARACTERS
