"""Help shows what one needs first, and on demand every argument with its default, without importing the task."""

import re
import subprocess
import sys
from dataclasses import dataclass, field, fields
from typing import Literal

import pytest

from hf_effmodels.cli import main
from hf_effmodels.training import list_tasks
from hf_effmodels.training.run.arguments import DEFAULT_TASK
from hf_effmodels.training.run.early import argument_types
from hf_effmodels.training.run.help import USUAL, described
from hf_effmodels.training.run.recipes import find_recipe, list_recipes, read_recipe
from hf_effmodels.training.task import task_folder

TASKS = [task for task in list_tasks() if "distillation" not in task and task != "source-free-adaptation"]


@pytest.fixture
def shown(capsys):
    def call(*argv) -> str:
        with pytest.raises(SystemExit) as end:
            main([*argv])
        assert end.value.code == 0
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_short_help_is_short_and_full_help_has_every_argument(command, task, shown):
    short, full = shown(command, "--task", task, "-h"), shown(command, "--task", task, "--help-all")
    assert len(short.splitlines()) < 80 and "--help-all shows all" in short and "--task TASK" in short
    stage = "TRAINING_ARGUMENTS" if command == "train" else "EVALUATION_ARGUMENTS"
    fields = {
        f.name: f for data in argument_types(task_folder(task), stage) for f in data.__dataclass_fields__.values()
    }
    for name, f in fields.items():
        assert re.search(rf"^  --{name} ", full, re.MULTILINE), name
        assert (f"  --{name} " in short) == (name in USUAL or bool(f.metadata.get("missing"))), name
    assert f"shows all {len(fields)}," in short
    if command == "train":
        assert re.search(r"--learning_rate X .*\n?.*\(default: \S+\)", full)
        assert re.search(r"--overwrite_output_dir true\|false\n.*\n.*\(default: false\)", full)


def test_help_names_the_recipes_of_the_task(shown):
    for task in ("image-classification", "super-resolution"):
        text = " ".join(shown("train", "--task", task, "-h").split())
        said = re.search(r"Recipes of [\w-]+: (.*?)\. ", text)[1].split(", ")
        assert said == [r for r in list_recipes() if read_recipe(find_recipe(r)).get("task", DEFAULT_TASK) == task]


def test_choices_and_ranges_are_said(shown):
    text = " ".join(shown("train", "--help-all").split())
    assert (
        "random_resized: a random part, resized" in text
        and "--mixup X Mixup's alpha; 0 for none; in [0, inf)." in text
    )
    assert "lamb" in text and re.search(r"--save_strategy TEXT When to save: no, steps, epoch or best", text)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from hf_effmodels.cli import main\n"
        "for argv in (['train', '--help-all'], *([name, '-h'] for name in sys.argv[1:])):\n"
        "    try: main(argv)\n"
        "    except SystemExit: pass\n"
        "    print(argv[0], {'torch', 'transformers'} & sys.modules.keys(), file=sys.stderr)"
    )
    names = (
        "evaluate quickstart predict chat benchmark tiny-lm prepare download convert export publish info list".split()
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert done.stderr.splitlines() == [f"{name} set()" for name in ("train", *names)]
    assert "--learning_rate" in done.stdout and "--top-k" in done.stdout


@dataclass
class Said:
    whole: str = field(default="a", metadata={"choices": ["a", "bee"], "help": "a or bee."})
    some: str = field(default="a", metadata={"choices": ["a", "bee"], "help": "a, or something else."})
    none: Literal["x", "y"] = field(default="x", metadata={"help": "How it goes."})
    number: int = field(default=3, metadata={"accepts": "[1, 9]", "help": "How many."})
    bare: str = field(default="a", metadata={"choices": ["q", "w"]})


def test_help_names_what_is_accepted_unless_its_sentence_does():
    """All of it: a sentence that names some of it is gone on with."""
    text = {f.name: described(f)[1] for f in fields(Said)}
    assert text["whole"] == "a or bee."
    assert text["some"] == "a, or something else. One of a, bee."
    assert text["none"] == "How it goes. One of x, y."
    assert text["number"] == "How many; in [1, 9]." and text["bare"] == ""
