"""Write the pages of all options, of the commands and of the tasks, from what reads them.

python scripts/update_options.py           # after a change of an option
python scripts/update_options.py --check   # fails if something is out of date
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from unittest import mock

import yaml

from hf_effmodels import cli
from hf_effmodels.compression.command import step_names
from hf_effmodels.training.losses.interface import DistillationLoss
from hf_effmodels.training.losses.registry import losses_by_name, settings_of
from hf_effmodels.training.preparation import list_preparations
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.early import argument_types
from hf_effmodels.training.run.help import described
from hf_effmodels.training.task import list_tasks, task_folder

ROOT = Path(__file__).parent.parent
FOLDER = "docs/options"
#: Commands whose first word says what they read -> those words.
FIRST_WORDS = {"tiny-lm": step_names(), "prepare": [*list_preparations()]}
LOSSES = """What `--losses` takes is a mapping of names to settings: `{kd: {temperature: 4}, fitnet: {weight: 0.1}}`.
[Distil](../how-to/distil.md) says what they are for."""
#: Their options are those of a task.
OF_TASKS = ("train", "evaluate", "quickstart")
Row = tuple[str, str, str]


class Seen(Exception):
    """A command reads its arguments: by a parser, or as dataclasses."""


def pages() -> dict[str, str]:
    """Every page by its path in the repository, and the navigation, with its content as it should be."""
    usual = _usual()
    tasks = {f"{FOLDER}/{task}.md": _task_page(task, usual) for task in list_tasks()}
    files = {f"{FOLDER}/commands.md": _command_page(), f"{FOLDER}/training.md": _usual_page(usual), **tasks}
    lines = [
        f"      - {text.partition(chr(10))[0][2:]}: {name.removeprefix('docs/')}\n" for name, text in files.items()
    ]
    block = re.compile(r"(^ *# options: [^\n]*\n).*?(^ *# end of options)", re.DOTALL | re.MULTILINE)
    found = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return files | {"mkdocs.yml": block.sub(lambda match: match[1] + "".join(lines) + match[2], found)}


def _task_page(task: str, usual: dict[str, Row]) -> str:
    training, evaluation = (_of_task(task, stage) for stage in ("TRAINING", "EVALUATION"))
    own = {name: row for name, row in training.items() if usual.get(name) != row}
    only = {name: row for name, row in evaluation.items() if training.get(name) != row}
    return (
        "\n\n".join(
            [
                f"# {task}",
                f"`hf-effmodels train --task {task}` and a recipe with `task: {task}` take what stands here and what "
                "[all trainings take](training.md); `hf-effmodels evaluate` what says so. "
                f"`hf-effmodels train --task {task} -h` shows the usual ones.",
                "## Training\n\n" + _table(own.values()),
                "## Evaluation\n\n"
                + f"Of the options above: {_listed(name for name in evaluation if name not in only)}. Besides:\n\n"
                + _table(only.values()),
                *(["## Losses", LOSSES, *_losses()] if "losses" in training else []),
            ]
        ).rstrip()
        + "\n"
    )


def _losses() -> Iterator[str]:
    """Each loss that a recipe may name: what it is, and its settings."""
    for name, loss in losses_by_name().items():
        told = {**_arguments_of(DistillationLoss), **_arguments_of(loss)}
        told["weight"] = _arguments_of(DistillationLoss)["weight"]
        parameters = inspect.signature(loss.__init__).parameters
        rows = [
            (setting, _default_of(parameters[setting].default), told[setting].replace("|", "\\|"))
            for setting in settings_of(loss)
        ]
        summary = " ".join(inspect.getdoc(loss).partition("\n\n")[0].split())
        yield f"### {name}\n\n{summary}\n\n" + _table(rows).replace("| option |", "| setting |", 1)


def _default_of(value) -> str:
    if value is None or value is inspect.Parameter.empty:
        return ""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).partition("\n")[0]


def _arguments_of(loss: type) -> dict[str, str]:
    """Name -> what the docstring of a class says of it under `Args:`."""
    found, names = {}, []
    for line in inspect.getdoc(loss).partition("Args:\n")[2].splitlines():
        if not line.startswith("    "):
            break
        if begins := re.match(r"    ((?:\w+, )*\w+): (.*)", line):
            names = begins[1].split(", ")
            found |= dict.fromkeys(names, begins[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`--{name}`" for name in names) or "none"


def _usual_page(usual: dict[str, Row]) -> str:
    transformers = "[transformers says](https://huggingface.co/docs/transformers/main_classes/trainer)"
    return f"""# All trainings

What the recipes and `hf-effmodels train` of every task take. Of transformers' own arguments those stand here that are
not as there; the others are taken as well, and do what {transformers}.

{_table(usual.values())}
"""


def _usual() -> dict[str, Row]:
    """What all tasks have in common, with the same default."""
    first, *others = (_of_task(task, "TRAINING") for task in list_tasks())
    return {name: row for name, row in first.items() if all(other.get(name) == row for other in others)}


def _of_task(task: str, stage: str) -> dict[str, Row]:
    types = argument_types(task_folder(task), f"{stage}_ARGUMENTS")
    found = {f.name: f for data in types for f in fields(data) if f.init}
    return {name: _row(f) for name, f in found.items() if stage != "TRAINING" or _is_ours(f)}


def _is_ours(f: Field) -> bool:
    """Whether it is no argument of transformers that is as transformers has it."""
    from transformers import TrainingArguments

    stock = {given.name: given for given in fields(TrainingArguments)}.get(f.name)
    return stock is None or described(stock)[1:] != described(f)[1:]


def _command_page() -> str:
    parts = [
        "# Commands",
        "What each command of `hf-effmodels` takes; `hf-effmodels COMMAND -h` says the same with examples. Those of "
        "`train` and `evaluate` stand on the pages of the tasks, and [what all trainings take](training.md).",
    ]
    for command, rows in _commands():
        parts.append(f"## {command}\n\n{_table(rows)}")
    return "\n\n".join(parts) + "\n"


def _commands() -> Iterator[tuple[str, list[Row]]]:
    for name, parser in cli._parser()[1].items():
        yield name, _of_parser(parser)
    for name in cli.PASSED_ON:
        for word in [] if name in OF_TASKS else FIRST_WORDS.get(name, [""]):
            found = _read_by(name, [*filter(None, [word]), "one", "two"])
            rows = _of_parser(found) if isinstance(found, argparse.ArgumentParser) else _of_types(found)
            yield f"{name} {word}".rstrip(), rows


def _read_by(command: str, words: Sequence[str]) -> argparse.ArgumentParser | tuple[type, ...]:
    with _seeing():
        try:
            cli.PASSED_ON[command](list(words))
        except Seen as seen:
            return seen.args[0]
    raise ValueError(f"{command} {' '.join(words)}: it reads no arguments.")


@contextmanager
def _seeing() -> Iterator[None]:
    """Whatever reads arguments raises `Seen` within."""

    reads = argparse.ArgumentParser.parse_known_args

    def by_parser(self, args=None, namespace=None):
        if type(self).__module__ == ArgumentReader.__module__:  # of what comes before the dataclasses
            return reads(self, args, namespace)
        steps = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        raise Seen(steps[0].choices[args[0]] if steps else self)

    def by_reader(self, *types):
        raise Seen(types)

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", by_parser),
        mock.patch.object(argparse.ArgumentParser, "parse_args", by_parser),
        mock.patch.object(ArgumentReader, "read", by_reader),
    ):
        yield


def _of_parser(parser: argparse.ArgumentParser) -> list[Row]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest.upper()
        text = " ".join((action.help or "") % {"default": action.default, "prog": parser.prog} for _ in "1")
        if action.choices and not all(str(choice) in text for choice in action.choices):
            text = f"{text}; one of {', '.join(map(str, action.choices))}".removeprefix("; ")
        rows.append((name, _plain(action.default), text))
    return rows


def _plain(default) -> str:
    if default is None or isinstance(default, bool) or default in ((), [], argparse.SUPPRESS):
        return ""
    return ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def _of_types(types: Sequence[type]) -> list[Row]:
    return [_row(f) for data in types for f in fields(data) if f.init and _is_ours(f)]


def _row(f: Field) -> Row:
    kind, text, default = described(f)
    return f"--{f.name} {kind}", "" if default in (None, "none") else default, text


def _table(rows: Iterable[Row]) -> str:
    lines = [
        f"| {_cell(f'`{name}`')} | {_cell(f'`{default}`' if default else '')} | {_cell(text)} |"
        for name, default, text in rows
    ]
    return "\n".join(["| option | default | what it is |", "|---|---|---|", *lines]) if lines else "None."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def stale() -> list[str]:
    """Pages that are not as they should be, and those of what is gone."""
    wanted = pages()
    there = {str(path.relative_to(ROOT)) for path in (ROOT / FOLDER).glob("*.md")} | {"mkdocs.yml"}
    changed = [name for name in wanted.keys() & there if (ROOT / name).read_text(encoding="utf-8") != wanted[name]]
    return sorted([*changed, *(wanted.keys() ^ there)])


def main() -> int:
    found = stale()
    if "--check" in sys.argv:
        if found:
            print(f"out of date: {', '.join(found)}; run python scripts/update_options.py")
        return bool(found)
    wanted = pages()
    for name in found:
        file = ROOT / name
        if name not in wanted:
            file.unlink()
            continue
        file.parent.mkdir(exist_ok=True)
        file.write_text(wanted[name], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
