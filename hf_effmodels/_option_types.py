"""Types of the command line's options: numbers as people write them, and what is accepted where another is given."""

import argparse
import importlib.metadata
import math
import re
from collections.abc import Callable


def _real(text: str, fits: Callable[[float], bool], accepted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"got {text}, accepted are {accepted}")
    return value


def finite(text: str) -> float:
    """A finite number."""
    return _real(text, lambda value: True, "finite numbers")


def positive(text: str) -> float:
    """A finite number above 0."""
    return _real(text, lambda value: value > 0, "numbers above 0")


def share(text: str) -> float:
    """A number from 0 to 1."""
    return _real(text, lambda value: 0 <= value <= 1, "numbers from 0 to 1")


def number(text: str) -> int:
    """A whole number such as 48000, 48k, 15M or 1.5B."""
    factors = {"k": 1e3, "m": 1e6, "b": 1e9}
    factor = factors.get(text[-1:].lower(), 1)
    try:
        value = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        value = math.nan
    if not 1 <= value < 1e15:
        raise argparse.ArgumentTypeError(f"got {text}, accepted are numbers from 1, such as 48000, 48k, 15M or 1.5B")
    return round(value)


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from `least` to `most`, by default as large as files can have."""
    to = "" if most is None else f" to {most}"

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,19}", text) or not least <= int(text) <= (2**63 - 1 if most is None else most):
            raise argparse.ArgumentTypeError(f"got {text}, accepted are whole numbers from {least}{to}")
        return int(text)

    return read


#: Where torch itself can compute.
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia", "xla")


def names_device(text: str) -> bool:
    """Whether torch may know a place to compute; others than its own come with packages, which tell so."""
    return text.partition(":")[0] in DEVICES or bool(importlib.metadata.entry_points(group="torch.backends"))


count, from_zero = whole(1), whole(0)
#: Of a seed: what every generator of random numbers takes, NumPy's, torch's and scikit-learn's.
seed = whole(0, 2**32 - 1)
