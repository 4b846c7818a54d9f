"""`hf-effmodels train-codec MODEL OUTPUT --at MODULE`: the arguments, looked at before anything heavy is imported."""

from collections.abc import Sequence
from pathlib import Path

from ..._command_line import in_words_of_the_command
from ..._kinds import check_head, stated_type
from ..._places import check_apart
from ...registry import is_in_halves
from ...training.run.arguments import ArgumentReader
from ...training.run.early import by_place, look_at
from .arguments import CodecArguments


def main(argv: Sequence[str]) -> dict:
    """Train a bottleneck for each β; print and return what each costs.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    reader = ArgumentReader(by_place(argv, "model", "output"), "hf-effmodels train-codec")
    read = look_at(reader, Path(__file__).with_name("curves.py"), beside=("arguments.py",))
    if read is not None:
        arguments = CodecArguments(**vars(read[0]))
        try:
            check_apart("--output", arguments.output, "MODEL", arguments.model)
            arguments.check_places()
        except OSError as error:
            words = {"folder": "--output", "output": "--output"}
            raise type(error)(in_words_of_the_command(str(error), words)) from error
        name = arguments.model
        check_head("--model", name, "AutoModelForImageClassification")
        if is_in_halves(stated_type(name)):
            raise ValueError(f"--model: {name} has a code already; accepted are classifiers without.")
    from .curves import train_codec

    return train_codec(reader)
