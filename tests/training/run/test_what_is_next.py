"""The commands that follow a run, and what has changed under its names since, of records that are written here."""

import json
import logging
from dataclasses import dataclass, field

import pytest
from huggingface_hub.utils import validate_repo_id

from hf_effmodels.training.run.contents import check_contents
from hf_effmodels.training.run.next_steps import next_commands
from hf_effmodels.training.run.output_folder import write_run
from hf_effmodels.training.run.publishing import HUB_FOLDER
from hf_effmodels.training.run.results import ResultsArguments


@dataclass
class Model:
    model: str = "a"
    stage: int = 1
    depth: int = 1


@dataclass
class Data:
    dataset: str = "digits"
    data_files: dict | None = None
    labels: list[str] = field(default_factory=list)
    streaming: bool = False
    split: str | None = None


TYPES = (Model, Data, ResultsArguments)


def test_the_commands_name_the_folder_and_what_of_the_data_is_not_the_default(tmp_path):
    folder = tmp_path / "net"
    config = {
        "task": "image-classification",
        "output_dir": str(folder),
        "dataset": "digits",
        "depth": 4,
        "output": "x",
    }
    evaluate = ["hf-effmodels", "evaluate", "--model", str(folder), "--output", str(folder / "evaluation.json")]
    assert next_commands(config, TYPES) == [evaluate]
    config |= {"task": "other", "dataset": "photos", "data_files": {"train": "a"}, "labels": ["x", "y"], "stage": 2}
    first, second = next_commands({**config, "streaming": True}, TYPES, {"split": "test", "dataset": None}, ["a.png"])
    assert first == [
        *("hf-effmodels", "evaluate", "--task", "other", "--model", str(folder), "--stage", "2"),
        *("--data_files", json.dumps({"train": "a"}), "--labels", "x", "y", "--streaming", "true", "--split", "test"),
        *("--output", str(folder / "evaluation.json")),
    ]
    assert second == ["hf-effmodels", "predict", str(folder), "a.png"]
    (folder / HUB_FOLDER).mkdir(parents=True)
    publish = ["hf-effmodels", "publish", str(folder / HUB_FOLDER), "your-name/net"]
    assert next_commands({**config, "license": "mit"}, TYPES, predict=[])[1:] == [second[:3], publish]
    assert next_commands(config, TYPES)[1:] == [[*publish, "--license", "LICENSE"]]


def test_places_that_begin_with_a_dash_are_not_taken_for_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-net" / HUB_FOLDER).mkdir(parents=True)
    config = {"task": "image-classification", "output_dir": "-net", "dataset": "-pictures", "split": "-1"}
    evaluate, predict, publish = next_commands(config, TYPES, predict=["-net/example.png", "--top", "3"])
    assert evaluate[2:] == [
        "--model",
        "./-net",
        "--dataset=-pictures",
        "--split=-1",
        "--output",
        "./-net/evaluation.json",
    ]
    assert predict[2:] == ["./-net", "./-net/example.png", "--top", "3"]
    assert publish[2:] == [f"./-net/{HUB_FOLDER}", "your-name/net", "--license", "LICENSE"]


@pytest.mark.parametrize(
    "folder, name",
    [
        ("my run é", "my-run"),
        ("a--b..c.-d", "a-b.c.d"),
        (".hidden-", "hidden"),
        ("é", "model"),
        ("x" * 95 + ".yz", "x" * 95),
    ],
)
def test_a_model_is_published_under_a_name_that_the_hub_takes(folder, name, tmp_path):
    (tmp_path / folder / HUB_FOLDER).mkdir(parents=True)
    publish = next_commands({"task": "x", "output_dir": str(tmp_path / folder)}, TYPES)[-1]
    assert publish[3] == f"your-name/{name}"
    validate_repo_id(publish[3])


def test_the_commands_measure_as_the_run_did(tmp_path):
    @dataclass
    class Measuring(ResultsArguments):
        crop_border: int = 0
        seed: int = 0
        threshold: float = 0.5
        per_device_eval_batch_size: int = 8

    config = {"task": "other", "output_dir": str(tmp_path), "dataset": "digits", "output": "x", "overwrite": True}
    config |= {"crop_border": 4, "seed": 42, "threshold": 0.5, "per_device_eval_batch_size": 2}
    (words,) = next_commands(config, (Model, Data, Measuring))
    assert words[6:] == ["--crop_border", "4", "--seed", "42", "--output", str(tmp_path / "evaluation.json")]


def test_a_model_that_needs_no_code_is_published_from_the_runs_own_folder(tmp_path):
    config = {"task": "image-classification", "output_dir": str(tmp_path), "dataset": "digits"}
    (tmp_path / "config.json").write_text('{"model_type": "ghostnetv3"}')
    assert len(next_commands(config, TYPES)) == 1
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    publish = ["hf-effmodels", "publish", str(tmp_path), f"your-name/{tmp_path.name}", "--license", "LICENSE"]
    assert next_commands(config, TYPES)[1:] == [publish]


NOW = {"training data": {"samples": 5, "pictures": "ab"}, "model": {"weights": "cd"}, "nothing": {}}


def test_contents_are_recorded_and_compared_part_by_part(tmp_path, caplog):
    config, checkpoint = {"contents": {"texts": {"samples": 1}}}, tmp_path / "run" / "checkpoint-3"
    check_contents(config, None, "run", NOW)
    recorded = {"texts": {"samples": 1}, **{what: NOW[what] for what in ("training data", "model")}}
    assert config == {"contents": recorded}
    checkpoint.mkdir(parents=True)
    check_contents({}, checkpoint, "run", NOW)  # without a record beside it
    for before in (recorded, {}, None, {"training data": None}, {"training data": {"samples": 5}}):
        write_run(checkpoint.parent, {"task": "t", "seed": 1, "contents": before})
        check_contents({}, checkpoint, str(checkpoint.parent), NOW)
    assert not caplog.records
    before = {"training data": {"samples": 4, "pictures": "xy"}, "model": {"weights": "cd"}}
    write_run(checkpoint.parent, {"task": "t", "seed": 1, "contents": before})
    told = ["the samples of the training data (4 -> 5)", "the pictures of the training data"]
    with pytest.raises(ValueError) as caught:
        check_contents({}, checkpoint, str(checkpoint.parent), NOW)
    assert str(caught.value).startswith("--resume_from_checkpoint: ") and f": {'; '.join(told)}. " in str(caught.value)
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        check_contents({}, checkpoint, str(tmp_path / "another"), NOW)
    assert [record.getMessage().partition("names: ")[2] for record in caplog.records] == [f"{one}." for one in told]
