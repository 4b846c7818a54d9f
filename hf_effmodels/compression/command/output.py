"""The folder that a step writes."""

import argparse
from pathlib import Path


def add_output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--output", required=True, help="folder to write; it must not exist yet")
    sub.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote into the folder")


def free_output(arguments, *names: str) -> Path:
    """`--output`, which is new or was written by such a step, and may be replaced.

    Args:
        names: of files that this step is going to write: they must not be somebody else's.
    """
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"--output: {output} exists; choose another folder, or replace it with --overwrite.")
    from ..._written import check_rewritable

    try:
        check_rewritable(output, "tiny-lm", names)
    except FileExistsError as error:
        raise ValueError(f"--output: {error}") from None
    return output
