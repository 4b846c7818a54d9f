"""What the steps share: numbers as people write them, and results as text."""

import argparse
import math
from collections.abc import Collection

from ... import _command_line


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


def count(text: str) -> int:
    """A whole number from 1."""
    return from_least(text, 1)


def from_zero(text: str) -> int:
    """A whole number from 0."""
    return from_least(text, 0)


def from_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value < 2**63:
        raise argparse.ArgumentTypeError(f"got {text}, accepted are whole numbers from {least}")
    return value


def finite(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"got {text}, accepted are finite numbers")
    return value


def as_table(result: dict) -> str:
    width = max(map(len, result), default=0)
    shown = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in result.items()}
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items() if value is not None)


def as_yaml(result: dict) -> str:
    return "\n".join(
        f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in result.items()
    )


#: What functions call an argument -> what this command calls it.
OPTIONS = {
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key_value_heads",
    "target_params": "params",
    "train_split": "split",
    "seed": "draw_seed",
}


def in_words_of_the_command(message: str, options: dict, places: Collection[str] = ()) -> str:
    """An error of the functions behind a step with its option: `vocab_size: ...` -> `--vocab-size: ...`; what stands
    at one of its `places`, without an option, is in capitals: `MODEL: ...`."""
    if message.startswith(("layers: got '", "layers: got [")) and "select_layers" in options:
        message = f"select_{message}"  # which layers stay, and not how many
    own = {name: name.upper() if name in places else "--" + name.replace("_", "-") for name in options}
    renamed = {name: own[ours] for name, ours in OPTIONS.items() if ours in own and name not in own}
    return _command_line.in_words_of_the_command(message, own | renamed)
