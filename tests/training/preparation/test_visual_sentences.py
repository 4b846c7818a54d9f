"""Tables of tokens: what the tokenizer says of the pictures, going on after an end, and trained on like pictures."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hf_effmodels.pipelines import DelvmPipeline
from hf_effmodels.training import main as train
from hf_effmodels.training.data.image_pairs import expanded, load_pairs
from hf_effmodels.training.data.token_tables import read_settings, read_table
from hf_effmodels.training.preparation import visual_sentences
from tests.processes import run_in_two

from ..tasks.contract import history
from ..tasks.visual_sequence_modeling.conftest import tiny_pipeline, visual_run  # noqa: F401


@pytest.fixture
def pairs(tmp_path):
    train_pairs, _ = load_pairs("digits")
    for task in train_pairs:
        for split, numbers in (("train", range(6)), ("test", range(6, 9))):
            for part in (0, 1):
                folder = tmp_path / "pairs" / split / task.task / ("images", "answers")[part]
                folder.mkdir(parents=True)
                for number in numbers:
                    task.read(number)[part].save(folder / f"{number}.png")
    return tmp_path / "pairs"


@pytest.fixture
def arguments(pairs, tiny_pipeline):  # noqa: F811
    return [
        *("--dataset", str(pairs), "--image_tokenizer", str(tiny_pipeline), "--image_size", "8"),
        *("--expand", "{segment: 2}", "--shard_size", "4", "--seed", "3"),
    ]


def same(first, second) -> bool:
    return all(
        (a.task, list(a.names)) == (b.task, list(b.names))
        and np.array_equal(a.images, b.images)
        and np.array_equal(a.answers, b.answers)
        for a, b in zip(first, second, strict=True)
    )


def test_a_table_holds_what_the_tokenizer_says_of_each_copy(arguments, pairs, tiny_pipeline, tmp_path):  # noqa: F811
    folder = visual_sentences.main([*arguments, "--output", str(tmp_path / "table")])
    tasks, test = (read_table(str(folder), split) for split in ("train", "test"))
    assert [(task.task, len(task)) for task in (*tasks, *test)] == [
        *(("invert", 6), ("segment", 18)),
        *(("invert", 3), ("segment", 3)),
    ]
    tokenizer = DelvmPipeline.from_pretrained(tiny_pipeline).image_tokenizer
    source = load_pairs(str(pairs))[0][1]
    for row, (index, copy) in ((2, (2, 0)), (8, (2, 1)), (17, (5, 2))):
        image, answer = (tokenizer.encode(part)[0].tolist() for part in expanded(source, 2, 3, index, copy))
        assert (tasks[1].images[row].tolist(), tasks[1].answers[row].tolist()) == (image, answer)
        assert tasks[1].names[row] == str(index)
    assert read_settings(str(folder))["shards"] == {"train": 7, "test": 2}


def test_an_ended_preparation_goes_on_to_the_same_table_and_two_processes_share_one(
    arguments,
    tiny_pipeline,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    whole = visual_sentences.main([*arguments, "--output", str(tmp_path / "whole")])
    encode, calls = visual_sentences.encode_rows, []

    def end(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(visual_sentences, "encode_rows", end)
    with pytest.raises(KeyboardInterrupt):
        visual_sentences.main([*arguments, "--output", str(tmp_path / "ended")])
    with pytest.raises(ValueError, match="--output: .* holds a table begun with another seed"):
        visual_sentences.main([*arguments, "--seed", "4", "--output", str(tmp_path / "ended")])
    # The codebook stays, what finds the codes does not.
    shutil.copytree(tiny_pipeline, tmp_path / "other")
    for file in (tmp_path / "other").rglob("diffusion_pytorch_model.safetensors"):
        weights = load_file(file)
        weights["encoder.conv_in.bias"] += 1
        save_file(weights, file, metadata={"format": "pt"})
    other = [str(tmp_path / "other") if word == str(tiny_pipeline) else word for word in arguments]
    with pytest.raises(ValueError, match="holds a table begun with another .*weights"):
        visual_sentences.main([*other, "--output", str(tmp_path / "ended")])
    calls[:] = [None] * 4
    visual_sentences.main([*arguments, "--output", str(tmp_path / "ended")])
    assert len(calls) == 4 + 9 - 3
    monkeypatch.undo()
    run_in_two(visual_sentences.main, [*arguments, "--output", str(tmp_path / "two")])
    for split in ("train", "test"):
        for other in ("ended", "two"):
            assert same(read_table(str(whole), split), read_table(str(tmp_path / other), split))
    with pytest.raises(ValueError, match="is not empty and holds no unfinished table"):
        visual_sentences.main([*arguments, "--output", str(whole)])


def test_training_on_a_table_is_training_on_its_pictures(arguments, pairs, visual_run, tmp_path):  # noqa: F811
    table = visual_sentences.main([*arguments, "--output", str(tmp_path / "table")])
    run = [*visual_run, "--seed", "3", "--task_samples", "{}", "--max_steps", "3"]
    train([*run, "--dataset", str(table), "--output_dir", str(tmp_path / "1")])
    train([*run, "--dataset", str(pairs), "--expand", "{segment: 2}", "--output_dir", str(tmp_path / "2")])
    for keys in (("loss", "grad_norm"), ("eval_loss", "eval_token_accuracy")):
        assert np.array_equal(*(history(tmp_path / name, *keys) for name in "12"))
    with pytest.raises(ValueError, match="--expand: a table of tokens holds its copies already"):
        train([*run, "--dataset", str(table), "--expand", "{segment: 2}", "--output_dir", str(tmp_path / "3")])


@pytest.mark.parametrize("size", [None, 24])
def test_the_tokenizer_is_made_for_the_size_that_is_asked_for_and_else_for_its_own(size, pairs, tmp_path, monkeypatch):
    class Loaded(Exception):
        pass

    def load(*given):
        raise Loaded(*given)

    monkeypatch.setattr(visual_sentences, "load_task", lambda name: SimpleNamespace(load_image_tokenizer=load))
    argv = ["--dataset", str(pairs), "--image_tokenizer", "org/net", "--output", str(tmp_path / "out")]
    with pytest.raises(Loaded) as caught:
        visual_sentences.main([*argv, *([] if size is None else ["--image_size", str(size)])])
    assert caught.value.args == ("org/net", size) and not (tmp_path / "out").exists()
