"""`hf-effmodels probe MODEL ...`: the arguments, looked at before anything heavy is imported."""

from collections.abc import Sequence
from pathlib import Path

from ..._kinds import check_takes_images
from ..run.arguments import ArgumentReader
from ..run.early import look_at


def main(argv: Sequence[str]) -> list[dict]:
    """Probe the models that `argv` begins with, print and return a row for each.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    words = list(argv)
    count = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    words = [*(["--models", *words[:count]] if count else []), *words[count:]]
    reader = ArgumentReader(words, "hf-effmodels probe")
    read = look_at(reader, Path(__file__).with_name("probe.py"))
    for name in read[0].models if read else ():
        check_takes_images("--models", name)
    from .. import set_up_logging
    from .probe import probe

    set_up_logging()
    return probe(reader)
