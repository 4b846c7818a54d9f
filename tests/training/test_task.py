"""A task is found by its folder, or by its import path; what it lacks is named when it is loaded."""

import logging
import os
import re
import sys
from contextlib import nullcontext
from textwrap import dedent

import pytest

from hf_effmodels import _command_line, training
from hf_effmodels.training import list_tasks, load_task, prepare
from hf_effmodels.training.task import naming_extras, task_extras

WHOLE = """
    from dataclasses import dataclass

    @dataclass
    class Arguments:
        number: int = 1

    TRAINING_ARGUMENTS = EVALUATION_ARGUMENTS = (Arguments,)

    def prepare_training(reader):
        (arguments,) = reader.read(*TRAINING_ARGUMENTS)
        return lambda: {"twice": 2 * arguments.number}

    def prepare_evaluation(reader):
        raise ModuleNotFoundError("No module named 'abacus.beads'", name="abacus.beads")
"""


@pytest.fixture
def make_task(tmp_path, monkeypatch):
    """Writes a package that is a task, outside this package's tree, under a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, task: str = WHOLE, init: str = 'EXTRAS = ("train", "peft")') -> str:
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(init)
        (folder / "task.py").write_text(dedent(task))
        return name

    yield make
    for module in [module for module in sys.modules if module.startswith("toy_")]:
        del sys.modules[module]


def test_every_folder_of_tasks_offers_what_a_task_must():
    assert {"causal-lm", "image-classification", "image-text-to-text", "super-resolution"} <= set(list_tasks())
    for name in list_tasks():
        assert load_task(name).TRAINING_ARGUMENTS
        assert "train" in task_extras(name)
    assert "diffusion" in task_extras("super-resolution")


@pytest.mark.parametrize("name", ["toy_counting", "toy_projects.counting"])
def test_a_package_anywhere_is_a_task_by_its_import_path(make_task, name):
    make_task(name)
    assert prepare("prepare_training", ["--task", name, "--number", "21"])() == {"twice": 42}


@pytest.mark.parametrize("name", ["dancing", "json", "os.path", "no_such.package", "image_classification", "../tasks"])
def test_what_is_no_task_is_refused_with_the_names_of_all(name):
    with pytest.raises(ValueError, match=f"--task: got '{name}', accepted are 'causal-lm', .*'image-classification'"):
        load_task(name)


@pytest.mark.parametrize(
    "task, init, message",
    [
        (WHOLE, "", "toy_lacking has no EXTRAS"),
        (WHOLE, 'EXTRAS = "train"', "toy_lacking has no EXTRAS"),
        (WHOLE.replace("def prepare_evaluation", "def evaluate"), "EXTRAS = ()", "not offer prepare_evaluation;"),
        (WHOLE.replace("(Arguments,)", "Arguments"), "EXTRAS = ()", "TRAINING_ARG.*, EVALUATION_ARG.*;"),
        (
            WHOLE.replace("= (Arguments,)", "= (int,)"),
            "EXTRAS = ()",
            "not offer TRAINING_ARG.*, EVALUATION_ARGUMENTS;",
        ),
    ],
)
def test_what_a_task_lacks_is_named_when_it_is_loaded(make_task, task, init, message):
    name = make_task("toy_lacking", task, init)
    with pytest.raises(ValueError, match=message):
        load_task(name)


def test_a_missing_library_names_the_extras_of_the_task(make_task, monkeypatch):
    name = make_task("toy_importing", "import abacus.beads")
    with pytest.raises(ImportError, match=r"'abacus'. --task toy_imp.* pip install 'hf_effmodels\[train,peft\]'"):
        load_task(name)
    name = make_task("toy_later")
    with pytest.raises(ImportError, match=r"--task toy_later .*hf_effmodels\[train,peft\]"):
        prepare("prepare_evaluation", ["--task", name])
    with pytest.raises(ImportError, match=r"'diffusers'.*hf_effmodels\[train,diffusion\]"):
        with naming_extras("super-resolution"):
            raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")


def test_a_module_of_the_task_that_is_missing_is_not_blamed_on_an_extra(make_task):
    name = make_task("toy_broken", "from . import data")
    with pytest.raises(ImportError, match="^cannot import name 'data'|^No module named 'toy_broken.data'"):
        load_task(name)


@pytest.mark.parametrize("error", ["MemoryError()", "RuntimeError('DefaultCPUAllocator: you tried to allocate')"])
def test_what_does_not_fit_into_memory_is_no_traceback(make_task, error):
    before, _, _ = WHOLE.partition("raise ModuleNotFoundError")
    name = make_task("toy_large", f"{before}raise {error}")
    with pytest.raises(ValueError, match="not enough memory for what the arguments ask for"):
        prepare("prepare_evaluation", ["--task", name])
    name = make_task("toy_wrong", f"{before}raise RuntimeError('a mistake')")
    with pytest.raises(RuntimeError, match="a mistake"):
        prepare("prepare_evaluation", ["--task", name])


def test_a_tracker_that_is_not_installed_is_named(make_task):
    before, _, _ = WHOLE.partition("raise ModuleNotFoundError")
    name = make_task("toy_tracked", f"{before}raise RuntimeError('WandbCallback requires wandb to be installed.')")
    with pytest.raises(ImportError, match="--report_to: WandbCallback requires wandb"):
        prepare("prepare_evaluation", ["--task", name])


def test_what_a_package_lacks_itself_is_told_as_it_is(make_task):
    name = make_task("toy_lacks_module", "import toy_lacks_module.data")
    with pytest.raises(ModuleNotFoundError, match="^No module named 'toy_lacks_module.data'$"):
        load_task(name)
    name = make_task("toy_lacks_library", init="import abacus\nEXTRAS = ()")
    with pytest.raises(ModuleNotFoundError, match="^No module named 'abacus'$"):
        load_task(name)
    name = make_task("toy_lacks_extras", "import abacus.beads", init="EXTRAS = ()")
    with pytest.raises(ModuleNotFoundError, match="^No module named 'abacus'$"):
        load_task(name)
    name = make_task("toy_lacks_own", "import hf_effmodels.nowhere")
    with pytest.raises(ModuleNotFoundError, match="^No module named 'hf_effmodels.nowhere'$"):
        load_task(name)


SHOWN_BY_IMPORT = """
    from dataclasses import field, make_dataclass

    made = make_dataclass("Made", [("beads", int, field(default=3, metadata={"help": "Number of beads."}))])
    TRAINING_ARGUMENTS, EVALUATION_ARGUMENTS = (made,), (made,)

    def prepare_training(reader):
        raise KeyError("beads")

    def prepare_evaluation(reader):
        raise KeyError("beads")
"""


def test_help_of_arguments_that_the_source_does_not_show_imports_them(make_task, capsys):
    name = make_task("toy_made", SHOWN_BY_IMPORT)
    with pytest.raises(SystemExit) as end:
        prepare("prepare_training", ["--task", name, "--help-all"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and "--beads" in said and "Number of beads." in said


def test_a_surprise_is_one_line_unless_its_traceback_is_asked_for(make_task, monkeypatch, capsys):
    name = make_task("toy_surprising", SHOWN_BY_IMPORT)
    monkeypatch.delenv(training.TRACEBACK, raising=False)
    with pytest.raises(ValueError, match=rf"^KeyError: 'beads' \({re.escape(training.UNFORESEEN)}\)$"):
        with training._one_line_surprises():
            prepare("prepare_training", ["--task", name])
    monkeypatch.setenv(training.TRACEBACK, "1")
    with pytest.raises(KeyError):
        with training._one_line_surprises():
            prepare("prepare_training", ["--task", name])
    for error in (ValueError("told"), OSError("told"), ImportError("told")):
        with pytest.raises(type(error), match="^told$"):
            with training._one_line_surprises():
                raise error


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_progress_bars_are_afterwards_as_they_were(shown, fails, monkeypatch):
    from transformers.utils import logging as bars

    names = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    before = bars.is_progress_bar_enabled()
    seen = []

    def work(*_):
        _command_line.without_progress_bars()
        seen.append((bars.is_progress_bar_enabled(), [os.environ.get(name) for name in names]))
        if fails:
            raise ValueError("told")
        return {}

    monkeypatch.setattr(training, "_run_as_program", work)
    try:
        (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
        with pytest.raises(ValueError, match="told") if fails else nullcontext():
            training.main()
        assert seen == [(False, ["1", "1"])]
        assert bars.is_progress_bar_enabled() is shown
        assert not {*names} & os.environ.keys()
        monkeypatch.setenv(names[1], "0")
        with pytest.raises(ValueError, match="told") if fails else nullcontext():
            training.main()
        assert os.environ[names[1]] == "0", "what the user said stays"
    finally:
        (bars.enable_progress_bar if before else bars.disable_progress_bar)()


def test_a_log_without_a_terminal_has_no_bars_and_of_processes_the_first_one_speaks(monkeypatch):
    bars = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    logger, later = logging.getLogger("hf_effmodels"), []
    monkeypatch.setattr(_command_line, "when_imported", lambda module, call: later.append(module))
    level = logger.level
    try:
        for terminal, rank, spoken in (
            (True, None, logging.INFO),
            (False, "0", logging.INFO),
            (False, "1", logging.ERROR),
        ):
            for name in bars:
                monkeypatch.delenv(name, raising=False)
            monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
            monkeypatch.setenv("RANK", rank) if rank else monkeypatch.delenv("RANK", raising=False)
            training.set_up_logging()
            assert (
                logger.level == spoken and [os.environ.get(name) for name in bars] == [None if terminal else "1"] * 2
            )
            assert later == ([] if terminal else ["transformers.utils.logging"])
            later.clear()
    finally:
        logger.setLevel(level)
        for name in bars:
            monkeypatch.delenv(name, raising=False)
