"""Numbers that functions are given: what is none, or out of range, is named before anything is computed with it."""

import math
from collections.abc import Callable
from numbers import Integral, Real


def is_real(value) -> bool:
    """Whether it is a finite number; truth values and texts are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and -math.inf < value < math.inf


def as_index(value):
    """What counts or chooses: NumPy's whole numbers as Python's, everything else as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def is_whole(value, least: int, most: float = math.inf) -> bool:
    """Whether it is a whole number of Python's, which go into JSON, from `least` to `most`; see `as_index`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check_positive(**given) -> None:
    """ValueError unless each is a finite number above 0."""
    _check(given, lambda value: is_real(value) and value > 0, "positive numbers")


def check_from_zero(**given) -> None:
    """ValueError unless each is a finite number from 0."""
    _check(given, lambda value: is_real(value) and value >= 0, "numbers from 0")


def check_share(**given) -> None:
    """ValueError unless each is a number from 0 to 1."""
    _check(given, lambda value: is_real(value) and 0 <= value <= 1, "numbers from 0 to 1")


def check_whole(least: int, most: float = math.inf, **given) -> None:
    """ValueError unless each is a whole number from `least` to `most`."""
    to = "" if most == math.inf else f" to {most}"
    _check(given, lambda value: is_whole(value, least, most), f"whole numbers from {least}{to}")


def _check(given: dict, fits: Callable, accepted: str) -> None:
    for name, value in given.items():
        if not fits(value):
            raise ValueError(f"{name}: got {value!r}, accepted are {accepted}.")
