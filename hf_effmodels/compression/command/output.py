"""The folder that a step writes."""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from ..._files import whole_folder
from ...hub.contents import is_model_file

#: What a step writes beside the model and the tokenizer; the first two tell its folder from everybody else's.
_REPORTS = ("compression.json", "inheritance.json", "id_map.json", "token_counts.json")


def add_output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--output", required=True, help="folder to write; it must not exist yet")
    sub.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote into the folder")


def free_output(arguments) -> Path:
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"--output: {output} exists; choose another folder, or replace it with --overwrite.")
    if output.exists() and not any((output / name).is_file() for name in _REPORTS[:2]):
        raise ValueError(
            f"--output: {output} was not written by this command: it holds neither {_REPORTS[0]} nor {_REPORTS[1]}. "
            "It is not replaced."
        )
    return output


def writing(output: Path) -> AbstractContextManager[Path]:
    """A temporary folder that becomes `output` when all is written; files of others that are there stay."""
    return whole_folder(output, replaces=lambda name, path: is_model_file(name) or name in _REPORTS)
