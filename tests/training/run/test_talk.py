"""A run says what begins, what is likely to go wrong, and what can be done with the result."""

import json
import logging
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hf_effmodels import cli
from hf_effmodels.training import load_task, main, prepare
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.header import class_facts, class_warnings, multiply_adds, warnings_of
from hf_effmodels.training.run.next_steps import next_commands

GHOSTNET = ["--model", "ghostnetv3-0.5x", "--model_config", "{width_multiplier: 0.1, num_conv_branches: 1}"]
GHOSTNET += ["--image_size", "40", "--dataset", "digits", "--max_train_samples", "40", "--max_eval_samples", "11"]
GHOSTNET += ["--per_device_train_batch_size", "8", "--max_steps", "3", "--disable_tqdm", "true"]


def test_a_run_without_a_folder_says_what_it_does_and_its_last_commands_work(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "hf_effmodels")
    for number in (1, 2):
        caplog.clear()
        main(GHOSTNET)
        folder = f"outputs/ghostnetv3-0.5x-digits-{number}"
        assert Path(folder, "model.safetensors").is_file()
    said = [record.getMessage() for record in caplog.records]
    parameters = sum(p.numel() for p in load_model(folder).parameters())
    assert said[0].startswith("image-classification: GhostNetV3ForImageClassification ghostnetv3-0.5x, ")
    assert f"{parameters / 1e6:.3f} M parameters" in said[0]
    assert said[1].startswith("training on digits/train: 40 samples, 10 classes (") and "11 samples" in said[2]
    assert any(line == f"cpu, float32, 8 samples a step, 3 steps; into {folder}" for line in said)
    assert any("batch norms: after 3 steps their statistics are still 73 %" in line for line in said)
    # Losses although the run is shorter than the steps between two of them.
    log = json.loads(Path(folder, "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3]
    commands = [shlex.split(line) for line in said[said.index("next:") + 1 :]]
    assert [words[:2] for words in commands] == [["hf-effmodels", w] for w in ("evaluate", "predict", "publish")]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["hf-effmodels"])
    assert cli.main(commands[0][1:]) == 0 and "top-1" in capsys.readouterr().out
    results = json.loads(Path(folder, "all_results.json").read_text())
    measured = json.loads(Path(folder, "evaluation.json").read_text())
    assert measured["accuracy"] == results["eval_accuracy"] and measured["samples"] == 11
    assert cli.main(commands[1][1:]) == 0 and capsys.readouterr().out.startswith(f"{folder}/example.png: ")
    sent = []
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.setattr("hf_effmodels.hub.publish", lambda *args, **kw: sent.append((args, kw)) or SimpleNamespace(
        pr_url=None, commit_url="https://hub/commit"))  # fmt: skip
    assert (
        cli.main(commands[2][1:]) == 2 and "--license: LICENSE stands for the licence" in capsys.readouterr().err
    )  # yours to choose
    assert cli.main(["mit" if word == "LICENSE" else word for word in commands[2][1:]]) == 0
    assert sent[0][0] == (f"{folder}/hub", f"your-name/{Path(folder).name}") and sent[0][1]["license"] == "mit"


def load_model(folder):
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(folder)


@pytest.mark.parametrize("value", ["true", "auto"])
def test_a_run_that_goes_on_must_be_named(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--resume_from_checkpoint: of which run. Name its folder with --output_dir"):
        prepare("prepare_training", [*GHOSTNET, "--resume_from_checkpoint", value])


@pytest.mark.parametrize(
    "argv, name",
    [
        (["--model", "org/net", "--dataset", "a b/my photos"], "outputs/net-my_photos-1"),
        (["--task", "causal-lm", "--model", "llama", "--dataset", "x/shakespeare.txt"], "outputs/llama-shakespeare-1"),
        (["--task", "object-detection", "--detector", "yolos", "--dataset", "d"], "outputs/yolos-d-1"),
    ],
)
def test_a_folder_is_called_by_model_and_data(argv, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = ArgumentReader(argv)
    *_, training = reader.read(*load_task(reader.task).TRAINING_ARGUMENTS)
    assert training.output_dir == name


def test_commands_repeat_what_named_the_data_and_nothing_else(tmp_path):
    types = load_task("image-classification").EVALUATION_ARGUMENTS
    config = {"task": "image-classification", "output_dir": str(tmp_path / "my run"), "license": "mit"}
    config |= {"model": "ghostnetv3-1.0x", "image_size": 32, "dataset": "imagefolder", "data_dir": "my photos"}
    config |= {"label_mapping": {"a": "b"}, "train_split": "train", "check_images": True, "eval_fraction": None}
    (evaluate,) = next_commands(config, types, {"eval_fraction": 0.1})
    words = evaluate
    assert words[:4] == ["hf-effmodels", "evaluate", "--model", str(tmp_path / "my run")]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given == {
        "--dataset": "imagefolder",
        "--data_dir": "my photos",
        "--label_mapping": '{"a": "b"}',
        "--check_images": "true",
        "--eval_fraction": "0.1",
        "--output": str(tmp_path / "my run" / "evaluation.json"),
    }
    (tmp_path / "my run" / "hub").mkdir(parents=True)
    *_, publish = next_commands(config | {"task": "causal-lm"}, types, predict=["a b"])
    assert publish[2:] == [str(tmp_path / "my run" / "hub"), "your-name/my-run"]
    stage = next_commands(
        {"task": "super-resolution", "output_dir": "o", "stage": "rrdb", "dataset": "d"},
        load_task("super-resolution").EVALUATION_ARGUMENTS,
    )
    assert stage[0][2:8] == ["--task", "super-resolution", "--model", "o", "--stage", "rrdb"]


def test_classes_that_are_empty_or_small_are_named():
    names = ["cat", "dog", "eel", "fox"]
    train, evaluated = np.array([0] * 7 + [1] * 4 + [3] * 5), np.array([0, 1])
    assert class_facts("training on x", train, names) == "training on x: 16 samples, 4 classes (0 to 7 each)"
    empty, small, unmeasured = class_warnings(train, evaluated, names)
    assert "1 classes have no training sample (eel)" in empty
    assert "1 classes have fewer than 5 training samples (dog)" in small
    assert "1 classes are not evaluated: there is no sample (fox)" in unmeasured
    assert class_warnings(np.repeat([0, 1], 5), np.array([0, 1]), names[:2]) == []


def test_statistics_that_lag_are_said_with_the_steps_that_would_do():
    def trainer(model):
        accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped)
        return SimpleNamespace(model=model, accelerator=accelerator)

    slow = nn.Sequential(nn.BatchNorm2d(3, momentum=0.1), nn.BatchNorm2d(3, momentum=0.01))
    (said,) = warnings_of(trainer(slow), 100)
    assert f"still {100 * 0.99**100:.0f} %" in said and "(299 steps are enough)" in said
    assert 0.99**299 <= 0.05 < 0.99**298
    assert warnings_of(trainer(slow), 299) == [] == warnings_of(trainer(nn.Linear(2, 2)), 1)


def test_multiply_adds_are_counted_without_touching_the_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert multiply_adds(model, torch.zeros(3, 10, 20)) == (
        f"{8 * 3 * 9 * 200 / 1e6:.1f} M multiply-adds for an image of 10 x 20"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) and model.training


def test_the_quickstart_trains_measures_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["hf-effmodels"])
    few = ["--max_steps", "2", "--max_train_samples", "64", "--max_eval_samples", "20", "--disable_tqdm", "true"]
    assert cli.main(["quickstart", *few]) == 0
    out, err = capsys.readouterr()
    folder = "outputs/quickstart-image-classification-1"
    train = f"hf-effmodels train --config quickstart/image-classification {shlex.join(few)} --output_dir {folder}"
    assert f"$ {train}\n" in err
    assert "top-1" in out and "n 20" in out and f"{folder}/example.png: " in out
    assert cli.main(["quickstart", "-h"]) == 0 and "super-resolution" in capsys.readouterr().out
    assert cli.main(["quickstart", "image-clasification"]) == 2
    assert "there is no quickstart of 'image-clasification'; nearest: image-classification" in capsys.readouterr().err
