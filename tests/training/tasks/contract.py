"""What every task promises, as tests: `tests/training/tasks/<task>/test_contract.py` derives a class from
`TaskContract` and says what a run of a few seconds looks like for its task."""

import dataclasses
import json
import logging
import math
import os
import re
import shlex
import signal
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hf_effmodels import cli
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.run.output_folder import RUN_FILE, WEIGHTS_WITHOUT_EMA, newest_checkpoint
from hf_effmodels.training.run.trainer import RecipeTrainer
from hf_effmodels.training.task import load_task

from ...processes import run_apart, run_in_two


def history(folder, *keys: str) -> np.ndarray:
    """The logged values of `keys`, a row for each entry of the log that has the first of them."""
    log = json.loads((Path(folder) / "trainer_state.json").read_text())["log_history"]
    return np.array([[entry[key] for key in keys] for entry in log if keys[0] in entry])


def weights(folder) -> dict[str, torch.Tensor]:
    """All weights saved in a folder and the folders of its components, by file and name; not those of checkpoints."""
    folder, found = Path(folder), {}
    for file in sorted(folder.rglob("*.safetensors")):
        inside = file.relative_to(folder)
        if not inside.parts[0].startswith(("checkpoint-", "hub")):
            found |= {f"{inside}:{name}": tensor for name, tensor in load_file(file).items()}
    assert found, f"nothing is saved in {folder}"
    return found


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def store_rounded(folder: Path, dtype: str) -> None:
    """Write the weights in `dtype` where they lie, rounded to bfloat16 in any."""
    for file in folder.rglob("*.safetensors"):
        rounded = {
            name: value.bfloat16().to(getattr(torch, dtype)) if value.is_floating_point() else value
            for name, value in load_file(file).items()
        }
        save_file(rounded, file, {"format": "pt"})
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        if "dtype" in config:
            file.write_text(json.dumps({**config, "dtype": dtype}))


def run_until_killed(arguments: list[str], step: int) -> None:
    """Train in a process of its own that is killed in the midst of writing the checkpoint of `step`."""
    assert run_apart(_train_until_killed, arguments, step) == -signal.SIGKILL


def _train_until_killed(arguments: list[str], step: int) -> None:
    save = RecipeTrainer._save_rng_state

    def kill(self, folder):
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, folder)

    RecipeTrainer._save_rng_state = kill
    main(arguments)


def _train_apart(arguments: list[str]) -> None:
    assert run_apart(main, arguments) == 0


def goes_on_the_same(arguments: list[str], folder: Path) -> None:
    """A run of three steps that is killed while it saves the second, and called again, gives the very weights."""
    arguments = [*arguments, "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9"]
    whole, killed = folder / "whole", folder / "killed"
    main([*arguments, "--output_dir", str(whole)])
    run_until_killed([*arguments, "--output_dir", str(killed)], 2)
    assert newest_checkpoint(killed).name == "checkpoint-1"
    main([*arguments, "--output_dir", str(killed), "--resume_from_checkpoint", "true"])
    assert len(history(whole, "loss")) == 3
    assert np.array_equal(history(whole, "loss", "grad_norm"), history(killed, "loss", "grad_norm"))
    assert same(weights(whole), weights(killed))


def follow_one(arguments: list[str], folder: Path, rtol: float = 1e-4) -> None:
    """Two steps of eight samples are those of eight times one summed up, and of four in each of two processes."""
    for name, batch, steps, start in (("one", 8, 1, main), ("eight", 1, 8, main), ("two", 4, 1, _main_in_two)):
        size = ["--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps)]
        start([*arguments, *size, "--output_dir", str(folder / name)])
    expected = history(folder / "one", "loss", "grad_norm")
    assert len(expected) == 2 and (expected > 0).all()
    for name in ("eight", "two"):
        np.testing.assert_allclose(history(folder / name, "loss", "grad_norm"), expected, rtol=rtol, err_msg=name)


def _main_in_two(arguments: list[str]) -> None:
    run_in_two(main, arguments)


class TaskContract:
    """A derived class gives the fixtures `run` and `evaluation` and, where its task differs, the lists below."""

    #: The task.
    task: ClassVar[str]
    #: Its quickstart's recipe; by default the one that is named after it.
    quickstart: ClassVar[str | None] = None
    #: What makes the quickstart two steps long, beside `--max_steps 2`.
    short_quickstart: ClassVar[list[str]] = []
    #: Beyond `run`: a run whose every random number has to be restored.
    hard_to_resume: ClassVar[list[str]] = ["--ema_decay", "0.8", "--gradient_accumulation_steps", "2"]
    #: Steps of the killed run: saved every so many, killed while saving that one.
    save_steps: ClassVar[int] = 2
    killed_at: ClassVar[int] = 4
    #: Beyond `run`: a run without random numbers that depend on how samples are batched (dropout).
    deterministic: ClassVar[list[str]] = []
    #: How near the gradient norms of 8 x 1 and 1 x 8, and of two processes and one, are.
    rtol: ClassVar[float] = 1e-4
    #: Metrics of the evaluation (without `eval_`) that two processes measure as one does.
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    #: Whether `hf-effmodels predict` knows models of the task, so that a run says at its end how to ask its own.
    predicts: ClassVar[bool] = False
    #: Those that `evaluate` on the saved model finds again.
    measured_again: ClassVar[tuple[str, ...]] = ("loss",)

    @pytest.fixture
    def run(self) -> list[str]:
        """Arguments of a run of six to twelve steps that logs each, without `--output_dir`."""
        raise NotImplementedError

    @pytest.fixture
    def evaluation(self) -> list[str]:
        """Arguments of an evaluation on the data that the run evaluates on, without `--model` and `--output`."""
        raise NotImplementedError

    @pytest.mark.draws
    def test_the_quickstart_trains_two_steps_and_its_card_tells_them(self, tmp_path, caplog):
        output = tmp_path / "run"
        caplog.set_level(logging.INFO, "hf_effmodels")
        results = main(
            [
                "--config",
                self.quickstart or f"quickstart/{self.task}",
                "--max_steps",
                "2",
                "--logging_steps",
                "1",
                "--report_to",
                "none",
            ]
            + [*self.short_quickstart, "--output_dir", str(output)]
        )
        assert all(math.isfinite(value) for value in results.values() if isinstance(value, float))
        assert len(history(output, "loss")) == 2
        recorded = yaml.safe_load((output / RUN_FILE).read_text())
        assert recorded["task"] == self.task
        assert recorded["contents"] and all(recorded["contents"].values()), "data and weights are not known again"
        assert (
            json.loads((output / "all_results.json").read_text()).items()
            >= {
                name: value for name, value in results.items() if name.startswith("eval_") and "runtime" not in name
            }.items()
        )
        measured, _, training = (output / "README.md").read_text().partition("| hyper-parameter | value |")
        rows = dict(re.findall(r"^\| (\w+) \| `(.+)` \|$", training, re.MULTILINE))
        assert rows["total_train_batch_size"] == str(recorded["per_device_train_batch_size"])
        assert float(rows["learning_rate"]) == recorded["learning_rate"] and rows["max_steps"] == "2"
        cells = re.findall(r"^\| (\w+)(?:,[^|]*)? \|(?: [^|\d][^|]*\|)? ([\d.]+)( %)? ", measured, re.MULTILINE)
        shown = [cell for cell in cells if f"eval_{cell[0]}" in results]
        assert {name for name, *_ in shown} & set(self.measured_again), "no measured number in the card"
        for name, value, percent in shown:
            exact = results[f"eval_{name}"] * (100 if percent else 1)
            assert float(value) == pytest.approx(exact, rel=1e-3, abs=0.005), name
        assert not [*(output / "hub").rglob("*.bin"), *(output / "hub").rglob("*.pt")]
        if (output / "hub").is_dir() and (output / "config.json").is_file():  # the code lies there only
            assert "carries the model's code" in (output / "hub" / "README.md").read_text()
            assert "trust_remote_code" not in (output / "README.md").read_text()
        # What the run says at its end can be pasted.
        said = [record.getMessage().strip() for record in caplog.records]
        assert any(line.startswith(f"{self.task}: ") and " parameters" in line for line in said)
        commands = {line.split()[1]: shlex.split(line)[2:] for line in said if line.startswith("hf-effmodels ")}
        prepare("prepare_evaluation", commands["evaluate"])
        assert ("predict" in commands) == self.predicts
        if self.predicts:
            assert cli.main(["predict", *commands["predict"]]) == 0
        # What no code of ours belongs to is published from the run's own folder.
        has_model = (output / "config.json").is_file() and "model_type" in (output / "config.json").read_text()
        assert ("publish" in commands) == ((output / "hub").is_dir() or has_model)

    def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(self, run, tmp_path):
        run = [*run, *self.hard_to_resume, "--save_strategy", "steps", "--save_steps", str(self.save_steps)]
        run += ["--save_total_limit", "9"]
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        # All three in processes of their own: a loader's worker that is forked from one in which ONNX Runtime and
        # OpenVINO have run dies of a segmentation fault, and the process with it.
        _train_apart([*run, "--output_dir", str(whole)])
        run_until_killed([*run, "--output_dir", str(killed)], self.killed_at)
        assert [*(killed / f"checkpoint-{self.killed_at}").glob("*.safetensors")]
        assert newest_checkpoint(killed).name == f"checkpoint-{self.killed_at - self.save_steps}"
        _train_apart([*run, "--output_dir", str(killed), "--resume_from_checkpoint", "true"])
        for keys in (("loss", "grad_norm", "learning_rate"), tuple(f"eval_{name}" for name in self.metrics)):
            assert np.array_equal(history(whole, *keys), history(killed, *keys))
        assert same(weights(whole), weights(killed))
        last = [newest_checkpoint(folder) for folder in (whole, killed)]
        assert last[0].name == last[1].name and int(last[0].name.partition("-")[2]) > self.killed_at
        assert same(weights(last[0]), weights(last[1]))
        assert (last[0] / WEIGHTS_WITHOUT_EMA).exists() == ("--ema_decay" in run)

    def test_eight_small_batches_give_the_gradient_of_one_large(self, run, tmp_path):
        run = [*run, *self.deterministic, "--optim", "sgd", "--max_grad_norm", "0", "--max_steps", "2"]
        run += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        logged = []
        for batch, steps in ((8, 1), (1, 8)):
            size = ["--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps)]
            main([*run, *size, "--output_dir", str(tmp_path / f"{batch}x{steps}")])
            logged.append(history(tmp_path / f"{batch}x{steps}", "loss", "grad_norm"))
        assert len(logged[0]) == 2 and (logged[0][:, 1] > 0).all()
        np.testing.assert_allclose(*logged, rtol=self.rtol)

    def test_two_processes_follow_the_trajectory_of_one(self, run, tmp_path):
        run = [*run, *self.deterministic, "--optim", "sgd", "--max_grad_norm", "0", "--max_steps", "4"]
        run += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "no"]
        run += ["--load_best_model_at_end", "false", "--per_device_eval_batch_size", "3"]
        two, one = tmp_path / "two", tmp_path / "one"
        halves = ["--per_device_train_batch_size", "2", "--output_dir", str(two)]
        run_in_two(main, [*run, *halves])
        main([*run, "--per_device_train_batch_size", "4", "--output_dir", str(one)])
        for keys in (("loss", "grad_norm", "learning_rate"), tuple(f"eval_{name}" for name in self.metrics)):
            np.testing.assert_allclose(history(two, *keys), history(one, *keys), rtol=self.rtol)
        expected = weights(one)
        assert all(torch.allclose(expected[name], value, atol=1e-4) for name, value in weights(two).items())

    def test_a_saved_model_is_measured_as_its_run_measured_it(self, run, evaluation, tmp_path, capsys):
        output = tmp_path / "run"
        results = main([*run, "--max_steps", "2", "--output_dir", str(output)])
        arguments = ["--task", self.task, "--model", str(output), *evaluation, "--output", str(tmp_path / "e.json")]
        capsys.readouterr()
        measured = evaluate(arguments)
        assert re.search(r"\d", capsys.readouterr().out), "what was measured is printed"
        for name in self.measured_again:
            assert measured[name] == pytest.approx(results[f"eval_{name}"], rel=1e-5), name
        written = json.loads((tmp_path / "e.json").read_text())
        assert {name: written[name] for name in self.measured_again} == {
            name: measured[name] for name in self.measured_again
        }

    @pytest.mark.thorough
    def test_weights_in_half_precision_are_measured_and_trained_on_in_float32(self, run, evaluation, tmp_path):
        output = tmp_path / "run"
        main([*run, "--max_steps", "2", "--output_dir", str(output)])
        arguments = ["--task", self.task, "--model", str(output), *evaluation, "--output"]
        measured = {}
        for dtype in ("float32", "bfloat16"):  # of the same numbers, rounded to what bfloat16 can say
            store_rounded(output, dtype)
            measured[dtype] = evaluate([*arguments, str(tmp_path / f"{dtype}.json")])
        for name in self.measured_again:
            assert measured["bfloat16"][name] == pytest.approx(measured["float32"][name], rel=1e-6), name
        kinds = load_task(self.task).TRAINING_ARGUMENTS
        if "model" not in {option.name for kind in kinds for option in dataclasses.fields(kind)}:
            return  # a task whose networks begin anew each time
        on = prepare("prepare_training", self.trained_on(run, output, tmp_path / "on"))
        assert {p.dtype for p in on.trainer.network.parameters() if p.requires_grad} == {torch.float32}

    def trained_on(self, run: list[str], model: Path, output: Path) -> list[str]:
        """Arguments of a run that goes on with the weights of a model."""
        named = (
            *("--model", "--detector", "--segmenter", "--model_config", "--image_size", "--tokenizer", "--method"),
            *("--method_config", "--encoder", "--text_model", "--vision_model", "--num_channels"),
        )
        left = [
            word
            for number, word in enumerate(run)
            if word not in named and (not number or run[number - 1] not in named)
        ]
        return [*left, "--model", str(model), "--max_steps", "2", "--output_dir", str(output)]
