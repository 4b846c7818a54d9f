"""What a run that is ready does, in which order, and which of its processes: with stand-ins for trainer and task."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_effmodels.training.run import run as of_run
from hf_effmodels.training.run.lock import locked, owner_of
from hf_effmodels.training.run.output_folder import RUN_FILE, read_run, write_run
from hf_effmodels.training.run.run import Run


@dataclass
class Evaluated:
    dataset: str = "digits"
    labels: list[str] = field(default_factory=list)


class Trainer:
    """Tells what it is asked for, in order."""

    def __init__(self, folder, done, **arguments):
        settings = {"process_index": 0, "should_save": True, "overwrite_output_dir": False, "push_to_hub": False}
        self.args = SimpleNamespace(output_dir=str(folder), **{**settings, **arguments})
        self.model, self.done = nn.Linear(1, 1), done
        self.accelerator = SimpleNamespace(end_training=lambda: done.append("parted"))

    def train(self, resume_from_checkpoint):
        self.done.append(("trained", resume_from_checkpoint, Path(self.args.output_dir, RUN_FILE).is_file()))
        return SimpleNamespace(metrics={"train_loss": 0.5})

    def push_to_hub(self):
        self.done.append("pushed")


@pytest.fixture
def ready(monkeypatch, tmp_path):
    """Makes a run in `tmp_path / "out"`, and the list of what it does."""
    monkeypatch.setattr(of_run, "header", lambda trainer, config, facts: [f"header of {config['task']}", *facts])
    monkeypatch.setattr(of_run, "warnings_of", lambda trainer: ["norms"])
    monkeypatch.setattr(of_run, "load_task", lambda name: SimpleNamespace(EVALUATION_ARGUMENTS=(Evaluated,)))
    done = []

    def make(checkpoint=None, options=None, **arguments):
        trainer = Trainer(tmp_path / "out", done, **arguments)
        config = {"task": "t", "seed": 7, "output_dir": str(tmp_path / "out"), "dataset": "photos"}
        report = lambda metrics: done.append(("reported", metrics)) or {**metrics, "eval_accuracy": 1.0}  # noqa: E731
        return Run(trainer, checkpoint, config, report, **(options or {})), done

    return make


@pytest.mark.parametrize("pushes", [False, True])
@pytest.mark.parametrize("checkpoint", [None, "somewhere/checkpoint-4"])
def test_a_run_is_recorded_trained_reported_and_pushed_in_this_order(ready, checkpoint, pushes, caplog, tmp_path):
    caplog.set_level(logging.INFO, "hf_effmodels")
    run, done = ready(checkpoint and Path(checkpoint), push_to_hub=pushes)
    assert run() == {"train_loss": 0.5, "eval_accuracy": 1.0}
    steps = [("trained", checkpoint, True), ("reported", {"train_loss": 0.5}), *(["pushed"] if pushes else [])]
    assert done == [*steps, "parted"]
    assert read_run(tmp_path / "out")["seed"] == 7
    said = [record.getMessage() for record in caplog.records]
    assert ("going on from somewhere/checkpoint-4" in said) == (checkpoint is not None)


def test_while_a_run_trains_its_folder_is_its_own(ready, monkeypatch, tmp_path):
    run, _ = ready()
    train, owners = run.trainer.train, []
    monkeypatch.setattr(run.trainer, "train", lambda **how: owners.append(owner_of(tmp_path / "out")) or train(**how))
    run.train()
    assert owners[0].startswith(f"the run of process {os.getpid()} on ") and owner_of(tmp_path / "out") is None


def test_who_keeps_together_with_other_processes_does_not_part_from_them(ready):
    run, done = ready()
    run.train()
    assert done[-1][0] == "reported"


def test_what_begins_is_likely_to_go_wrong_and_can_be_done_next_is_told(ready, caplog, tmp_path):
    caplog.set_level(logging.INFO, "hf_effmodels")
    options = {"facts": ["40 samples"], "warnings": ["few"], "evaluation": {"dataset": "others", "labels": ["x", "y"]}}
    run, _ = ready(options={**options, "example": lambda folder: [f"{folder}/example.png"]})
    run.train()
    out = tmp_path / "out"
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", "header of t"),
        ("INFO", "40 samples"),
        ("INFO", f"arguments: {out / RUN_FILE}"),
        ("WARNING", "few"),
        ("WARNING", "norms"),
        ("INFO", "next:"),
        (
            "INFO",
            f"  hf-effmodels evaluate --task t --model {out} --dataset others --labels x y "
            f"--output {out / 'evaluation.json'}",
        ),
        ("INFO", f"  hf-effmodels predict {out} {out}/example.png"),
    ]


@pytest.mark.parametrize("overwrites", [False, True])
def test_what_another_run_has_left_goes_where_that_is_asked_for(ready, overwrites, tmp_path):
    write_run(tmp_path / "out", {"task": "t", "seed": 1})
    (tmp_path / "out" / "model.safetensors").touch()
    run, _ = ready(overwrite_output_dir=overwrites)
    run.train()
    assert (tmp_path / "out" / "model.safetensors").exists() != overwrites


def test_a_process_that_is_not_the_first_writes_and_tells_nothing(ready, caplog, tmp_path):
    caplog.set_level(logging.INFO, "hf_effmodels")
    run, done = ready(process_index=1, should_save=False, overwrite_output_dir=True, push_to_hub=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()  # by the first, which has begun; it compares
    with locked(tmp_path / "out"):  # by the first
        assert run.train()["eval_accuracy"] == 1.0
    assert done == [("trained", None, False), ("reported", {"train_loss": 0.5}), "pushed"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"] and not caplog.records


@pytest.mark.parametrize("broken", ["model", "teacher"])
def test_weights_that_are_no_numbers_are_told_of_the_argument_that_names_them(ready, tmp_path, broken):
    run, _ = ready()
    trainer = run.trainer
    trainer.teacher = nn.Linear(1, 1)
    Run(trainer, None, run.config, run.report)
    with torch.no_grad():
        getattr(trainer, broken).weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=f"--{broken}: "):
        Run(trainer, None, run.config, run.report)
    trainer.model, trainer.teacher = nn.Linear(1, 1), "its name alone"
    Run(trainer, None, run.config, run.report)
