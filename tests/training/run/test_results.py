"""Results of an evaluation replace those of the same evaluation, others on request, and nothing else ever."""

import json
from dataclasses import dataclass, field, fields, make_dataclass

import pytest

from hf_effmodels.training import list_tasks, load_task, prepare
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.results import ResultsArguments, open_results, write_results_file
from hf_effmodels.training.task import task_folder


@dataclass
class What:
    model: str = "a"
    dataset: str = "digits"
    bf16: bool = False
    token: str | None = None
    dataloader_num_workers: int = 0
    limit: int | None = None


@dataclass
class Places(ResultsArguments):
    answers: str | None = None
    save_images: str | None = None


def opened(file, overwrite=False, **what):
    return open_results("image-classification", [What(**what), ResultsArguments(str(file), overwrite)])


def test_results_say_how_they_were_measured_and_are_replaced_by_those_of_the_same_call(tmp_path):
    file = tmp_path / "evaluation.json"
    call = opened(file, token="hf_1")
    assert not file.exists()
    assert call == {"task": "image-classification", "model": "a", "dataset": "digits", "bf16": False}
    written = write_results_file(str(file), {"model": "a", "dataset": "digits", "accuracy": 0.5}, call)
    assert written == {"model": "a", "dataset": "digits", "accuracy": 0.5, "arguments": call}
    assert json.loads(file.read_text()) == written
    for same in ({}, {"token": "hf_2"}, {"dataloader_num_workers": 4}):
        assert opened(file, **same) == call
    others = (({"model": "b"}, "model: a"), ({"bf16": True}, "bf16: False"), ({"limit": 3}, "limit: None"))
    for other, named in others:  # the last one is not recorded where it is not said
        with pytest.raises(ValueError, match=rf"--output: .*of another evaluation \({named}\).*--overwrite true"):
            opened(file, **other)
        assert opened(file, overwrite=True, **other) == {**call, **other}


def test_results_without_a_call_are_those_of_their_model_and_data_set(tmp_path):
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps({"model": "a", "dataset": "digits", "split": "test", "accuracy": 0.5}))
    opened(file)
    with pytest.raises(ValueError, match=r"another evaluation \(model: a\)"):
        opened(file, model="b")
    opened(file, overwrite=True, model="b")


def test_who_names_no_file_gets_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = open_results("image-classification", [What(), ResultsArguments()])
    measured = {"model": "a", "dataset": "digits", "accuracy": 0.5}
    assert write_results_file(ResultsArguments().output, measured, call) == {**measured, "arguments": call}
    assert not [*tmp_path.iterdir()]
    boxes = ["--task", "object-detection", "--eval_pictures", "3"]
    for argv in (["--overwrite", "true"], ["--reports", "true"], boxes):
        reader = ArgumentReader(["--model", "a", "--dataset", "digits", *argv])
        with pytest.raises(ValueError, match=rf"{argv[-2]}: got (true|3), which goes with --output, which is not"):
            reader.read(*load_task(reader.task).EVALUATION_ARGUMENTS)


@pytest.mark.parametrize(
    "content", ["", "my thesis", "[]", "{}", '{"model": "a"}', "null", "[" * 100_000, b"\xff\xfe\x00"]
)
def test_what_no_evaluation_has_written_is_never_replaced(content, tmp_path):
    file = tmp_path / "evaluation.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="--output: .*evaluation.json is there, and no evaluation has written it"):
            opened(file, overwrite)


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--output: .* is a folder, accepted is a file"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="--output: .*file is a file, not a folder to write e.json into"):
        opened(tmp_path / "file" / "deeper" / "e.json")
    opened(tmp_path / "new" / "folder" / "e.json")
    assert not (tmp_path / "new").exists()


def test_answers_and_images_are_as_safe_as_results(tmp_path):
    def others(overwrite=False, **places):
        texts = {name: str(place) for name, place in places.items()}
        return open_results("task", [What(), Places(str(tmp_path / "e.json"), overwrite, **texts)])

    answers, images = tmp_path / "answers.jsonl", tmp_path / "images"
    images.mkdir()  # nothing is in it
    call = others(answers=answers, save_images=images)
    answers.write_text('{"prompt": "?", "answer": "!", "references": []}\n')
    (images / "sr").mkdir()
    for place in ({"answers": answers}, {"save_images": images}):
        with pytest.raises(ValueError, match=f"--{next(iter(place))}: .*--overwrite true"):
            others(**place)
        others(overwrite=True, **place)
    write_results_file(str(tmp_path / "e.json"), {"model": "a", "dataset": "digits"}, call)
    others(answers=answers, save_images=images)  # the same evaluation
    for content in ("a poem\n", "", "[]", '{"prompt": "?"}\n', "[" * 100_000, "\ud800"):
        answers.write_text(content, errors="surrogatepass")
        with pytest.raises(ValueError, match="--answers: .*no evaluation has written it"):
            others(overwrite=True, answers=answers)
    with pytest.raises(ValueError, match="--save_images: .* is a file"):
        others(overwrite=True, save_images=answers)
    with pytest.raises(ValueError, match="--answers: .*images is a folder, accepted is a file"):
        others(overwrite=True, answers=images)
    with pytest.raises(ValueError, match="--answers: .*answers.jsonl is a file, not a folder to write a.jsonl into"):
        others(answers=answers / "a.jsonl")
    with pytest.raises(ValueError, match="--save_images: .*answers.jsonl is a file, not a folder to write"):
        others(save_images=answers / "images")


@pytest.mark.parametrize("task", list_tasks())
def test_every_task_looks_where_its_results_go_before_anything_else(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluation.json").write_text("mine")
    types = load_task(task).EVALUATION_ARGUMENTS
    chooses_data = "dataset" in {f.name for data in types for f in fields(data)}
    nowhere = ["--task", task, "--model", "nowhere/at-all", *(["--dataset", "nowhere/either"] if chooses_data else [])]
    with pytest.raises(ValueError, match="--output: evaluation.json is there, and no evaluation has written it"):
        prepare("prepare_evaluation", [*nowhere, "--output", "evaluation.json"])
    with pytest.raises(ValueError, match="--output: . is a folder, accepted is a file"):
        prepare("prepare_evaluation", [*nowhere, "--output", ""])
    assert (task_folder(task) / "task.py").is_file()


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *[(name, False) for name in ("reports", "cache_dir", "check_images", "preprocessing_num_workers")],
        *[(name, False) for name in ("dataloader_num_workers", "per_device_eval_batch_size")],
        *[(name, True) for name in ("revision", "split", "max_eval_samples", "seed", "eval_pictures", "bf16")],
    ],
)
def test_what_says_how_fast_or_where_to_is_no_part_of_what_was_measured(name, counts, tmp_path):
    options = make_dataclass(
        "Options", [("model", str, "a"), ("dataset", str, "digits"), (name, int, field(default=1))]
    )
    file = tmp_path / "my evaluations" / "evaluation.json"
    file.parent.mkdir()

    def opened_with(value):
        return open_results("task", [options(**{name: value}), ResultsArguments(str(file))])

    call = opened_with(1)
    assert (name in call) == counts
    write_results_file(str(file), {"model": "a", "dataset": "digits"}, call)
    if not counts:
        assert opened_with(2) == call
        return
    with pytest.raises(
        ValueError, match=rf"another evaluation \({name}: 1\).* such as --output '.*evaluation-2.json', or"
    ):
        opened_with(2)


def test_a_call_is_recorded_as_it_was_whatever_was_measured(tmp_path):
    file = tmp_path / "e.json"
    assert write_results_file(str(file), {"arguments": 3, "model": "a"}, {"task": "t"})["arguments"] == {"task": "t"}
    assert json.loads(file.read_text()) == {"arguments": {"task": "t"}, "model": "a"}
