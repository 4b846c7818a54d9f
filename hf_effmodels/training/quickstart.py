"""`hf-effmodels quickstart [TASK]`: train a small model of a task on data that need no download, measure it, and let
it predict, each by the command that it shows."""

import os
import shlex
import sys
from collections.abc import Sequence
from itertools import count

from .._command_line import nearest, show
from . import prepare, set_up_logging
from .run.recipes import list_recipes

_DEFAULT = "image-classification"


def main(argv: Sequence[str]) -> int:
    """Run it; arguments behind the task are the training's (`--max_steps 10`, `--output_dir out`).

    Raises:
        ValueError: there is no quickstart of this task, or a wrong argument.
    """
    tasks = [name.partition("/")[2] for name in list_recipes() if name.startswith("quickstart/")]
    if {"-h", "--help"} & set(argv):
        show(_help(tasks))
        return 0
    named = argv[:1] if argv and not argv[0].startswith("-") else []
    task, rest = (named or [_DEFAULT])[0], [*argv[len(named) :]]
    if task not in tasks:
        known = f"; there are {', '.join(tasks)}"
        raise ValueError(f"TASK: there is no quickstart of {task!r}{nearest(task, tasks, known)}.")
    words = ["--config", f"quickstart/{task}", *rest]
    if not any(word.partition("=")[0] == "--output_dir" for word in rest):
        names = (f"outputs/quickstart-{task}-{number}" for number in count(1))
        words += ["--output_dir", next(name for name in names if not os.path.exists(name))]
    set_up_logging()
    sys.stderr.write(f"$ {shlex.join(['hf-effmodels', 'train', *words])}\n")
    run = prepare("prepare_training", words)
    run()
    from ..cli import main as command

    for shown in run.next_commands():
        if shown[1] in ("evaluate", "predict"):
            sys.stderr.write(f"$ {shlex.join(shown)}\n")
            if code := command(shown[1:]):
                return code
    return 0


def _help(tasks: Sequence[str]) -> str:
    return (
        "usage: hf-effmodels quickstart [TASK] [--ARGUMENT VALUE ...]\n\n"
        "Train a small model on data that need no download, measure it, and let it predict: a few minutes on a CPU.\n"
        f"TASK: {', '.join(tasks)} (default: {_DEFAULT}). The arguments are those of\n"
        "hf-effmodels train, such as --output_dir and --max_steps.\n"
    )
