"""`hf-effmodels probe MODEL ...`: the arguments, looked at before anything heavy is imported."""

from collections.abc import Sequence
from pathlib import Path

from ..run.arguments import ArgumentReader
from ..run.source import NotShown, dataclasses_in

_DATA = Path(__file__).parent.parent / "tasks" / "image_classification" / "data.py"


def main(argv: Sequence[str]) -> list[dict]:
    """Probe the models that `argv` begins with, print and return a row for each.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    words = list(argv)
    count = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    words = [*(["--models", *words[:count]] if count else []), *words[count:]]
    reader = ArgumentReader(words)
    try:
        types = dataclasses_in("ARGUMENTS", (Path(__file__).with_name("probe.py"),), (_DATA, *_shared()))
    except NotShown:  # then importing shows them
        pass
    else:
        reader.read(*types)
    from .. import set_up_logging
    from .probe import probe

    set_up_logging()
    return probe(reader)


def _shared() -> list[Path]:
    """Where the dataclasses may come from."""
    return sorted(Path(__file__).parent.parent.glob("*/**/*.py"))
