"""`hf-effmodels tiny-lm STEP ...`: one sub-command for each step of the workshop, a module each.

Such a module has `add(command)`, which declares its sub-commands with what runs them and what shows their results.
"""

import argparse
import json
import os
from collections.abc import Sequence

from ..._command_line import Parser, nearest, show
from ...training import set_up_logging
from . import inheritance, learning_rate, rounds, shapes, tokenizers
from .words import in_words_of_the_command

STEPS = (tokenizers, shapes, inheritance, rounds, learning_rate)


def main(argv: Sequence[str]) -> None:
    """Run one sub-command.

    Raises:
        ValueError, OSError: for wrong input, before any long work; nothing has been written then.
    """
    parser, steps = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in steps:
        near = nearest(argv[0], steps, f"; the steps are {', '.join(steps)}")
        raise ValueError(f"there is no step {argv[0]!r}{near}.")
    arguments, rest = parser.parse_known_args(list(argv))
    if not arguments.takes_recipe:
        steps[argv[0]].check_no_rest(rest)
    set_up_logging()
    try:
        result = arguments.run(arguments, rest) if arguments.takes_recipe else arguments.run(arguments)
    except ValueError as error:
        raise ValueError(in_words_of_the_command(str(error), vars(arguments))) from error
    text = json.dumps(result, indent=2) if arguments.json else arguments.show(result)
    if text and os.environ.get("RANK", "0") == "0":
        show(text + "\n")


def step_names() -> list[str]:
    """The names of all steps."""
    return [*_parser()[1]]


def _parser() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="hf-effmodels tiny-lm",
        description="Small language models out of large ones (https://arxiv.org/abs/2402.02791).",
    )
    commands = parser.add_subparsers(title="steps", required=True, metavar="STEP")

    def command(name: str, run, show, text: str, takes_recipe: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.set_defaults(run=run, show=show, takes_recipe=takes_recipe)
        return sub

    for step in STEPS:
        step.add(command)
    return parser, commands.choices
