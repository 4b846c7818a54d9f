"""`hf-effmodels predict` on data sets and into files: each row once, by several processes, after a kill as well."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image
from safetensors.torch import load_file, save_file

from hf_effmodels.cli import main
from hf_effmodels.prediction import run
from hf_effmodels.prediction.answers import Answers
from hf_effmodels.prediction.forms import in_form
from hf_effmodels.prediction.inputs import Input, Numbered, numbered
from hf_effmodels.prediction.predictor import Options, Predictor
from hf_effmodels.prediction.processes import Processes
from hf_effmodels.prediction.rows import load_rows
from hf_effmodels.training.run import launch

from ..processes import run_apart, run_in_two
from ..progress import Bars
from .test_predict import as_json

ROWS = 23


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A parquet file of pictures, the fifth of which is damaged, and the folder of the same pictures as files."""
    import datasets

    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    (folder / "files").mkdir()
    for number in range(ROWS):
        picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        picture.save(folder / "files" / f"{number:02d}.png")
    cells = [{"bytes": file.read_bytes(), "path": None} for file in sorted((folder / "files").iterdir())]
    cells[4] = {"bytes": b"\x89PNG\r\n\x1a\n", "path": None}
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"picture": cells, "label": ["x"] * ROWS}, features=features)
    rows.to_parquet(folder / "pictures.parquet")
    return folder


@pytest.fixture
def of_table(table):
    """The arguments that name the table."""
    return ["--dataset", "parquet", "--data-files", str(table / "pictures.parquet")]


def _dies_after_two_batches(argv):
    add, count = Answers.add, [0]

    def add_or_die(self, answers):
        add(self, answers)
        count[0] += 1
        if count[0] == 2:
            os._exit(9)

    Answers.add = add_or_die
    main(argv)


def _shares(argv):
    # The first says for all that a row could not be read.
    assert main(argv) == (1 if PartialState().is_main_process else 0)


def test_two_processes_go_on_after_a_kill_and_each_row_is_there_once(
    classifier,
    table,
    of_table,
    predict,
    tmp_path,
    capsys,
):
    model, output = str(classifier[0] / "model"), tmp_path / "found.jsonl"
    argv = ["predict", model, *of_table, "--batch-size", "3", "--output", str(output)]
    assert run_apart(_dies_after_two_batches, argv) == 9
    (part,) = (tmp_path / ".found.jsonl.unfinished").glob("*.jsonl")
    lines = part.read_text().splitlines()
    done = [json.loads(line)["number"] for line in lines]
    assert done == [0, 1, 2, 3, 5] and not output.exists()
    # What is there is not computed again, and a line that the kill has cut is.
    marked = json.loads(lines[1])
    marked["answer"]["classes"] = "kept"
    part.write_text("\n".join([lines[0], json.dumps(marked), *lines[2:], lines[0].replace("0", "7", 1)[:-5]]))
    assert main([*argv, "--top-k", "2"]) == 2
    assert "was begun with another top_k (5, now 2)" in capsys.readouterr().err
    run_in_two(_shares, argv)
    said = as_json(output.read_text())
    assert [answer["input"] for answer in said] == [f"train:{n}" for n in range(ROWS) if n != 4]
    assert said[1]["classes"] == "kept"
    alone = as_json(predict(model, table / "files", "--json"))
    for answer, file in zip(said[2:], [alone[2], alone[3], *alone[5:]], strict=True):
        assert [found["label"] for found in answer["classes"]] == [found["label"] for found in file["classes"]]
        scores = [[found["score"] for found in one["classes"]] for one in (answer, file)]
        np.testing.assert_allclose(*scores, atol=1e-6)
    assert not part.parent.exists()
    assert main(argv) == 2
    assert f"--output: {output} is there already" in capsys.readouterr().err


def test_what_was_begun_with_other_pictures_names_or_weights_is_not_gone_on_with(
    classifier, photos, tmp_path, capsys, monkeypatch
):
    model, pictures, output = tmp_path / "model", tmp_path / "pictures", tmp_path / "found.jsonl"
    shutil.copytree(classifier[0] / "model", model)
    pictures.mkdir()
    predictor = Predictor("image-classification", "image", lambda items: [{} for _ in items], str, list)
    monkeypatch.setattr("hf_effmodels.prediction.command.load_for_task", lambda *_: predictor)
    for name in ("a.png", "b.png"):
        shutil.copy(photos / "a.png", pictures / name)
    argv = ["predict", str(model), str(pictures), "--output", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr(Answers, "finish", lambda *_: (_ for _ in ()).throw(OSError("it was killed")))
        assert main(argv) == 2
    weights = load_file(model / "model.safetensors")
    for name, change, back in (
        ("content", lambda: Image.new("RGB", (9, 9)).save(pictures / "a.png"), photos / "a.png"),
        ("names", lambda: (pictures / "b.png").rename(pictures / "c.png"), pictures / "c.png"),
        (
            "weights",
            lambda: save_file({n: w + 1 for n, w in weights.items()}, model / "model.safetensors", {"format": "pt"}),
            classifier[0] / "model" / "model.safetensors",
        ),
    ):
        change()
        assert main(argv) == 2
        assert f"{output} was begun with another {name}" in capsys.readouterr().err
        shutil.copy(back, {"content": pictures / "a.png", "names": pictures / "b.png"}.get(name, model))
        (pictures / "c.png").unlink(missing_ok=True)
    assert main(argv) == 0 and len(as_json(output.read_text())) == 2


def test_pictures_of_rows_are_called_by_the_split_and_the_row_in_as_many_digits_as_the_last(table):
    fields = {"dataset_config": None, "dataset_revision": None, "data_dir": None, "split": None, "column": None}
    file = str(table / "pictures.parquet")
    rows = load_rows(SimpleNamespace(dataset="parquet", data_files=file, token=None, **fields), "image")
    found = rows.count, rows.stem(3), rows.get(3).stem, rows.get(12).name
    assert found == (ROWS, "train-03", "train-03", "train:12")


def test_rows_are_told_as_files_are(classifier, table, of_table, predict, tmp_path, capsys):
    model = classifier[0] / "model"
    printed = predict(model, *of_table, "--csv", code=1)
    assert main(["predict", str(model), *of_table, "--output", str(tmp_path / "found.csv")]) == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'found.csv'}: {ROWS - 1} answers\n" and "train:4: " in err
    assert "image-classification: " not in err  # nobody looks on: no bar
    assert (tmp_path / "found.csv").read_text() == printed
    rows = list(csv.DictReader(printed.splitlines()))
    assert len(rows) == 3 * (ROWS - 1) and rows[0]["input"] == "train:0" and rows[0]["rank"] == "1"
    # Files go into a file, too; without its ending they are lines.
    predict(model, table / "files", "--output", tmp_path / "found.txt")
    assert (tmp_path / "found.txt").read_text() == predict(model, table / "files")


def test_texts_come_from_a_column_and_one_that_is_missing_is_named(language, predict, tmp_path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"say": text}) + "\n" for text in ("the cat", None, "the dog")))
    argv = (language[0], "--dataset", texts, "--json", "--max-new-tokens", 3)
    assert main(["predict", *map(str, argv)]) == 1
    out, err = capsys.readouterr()
    assert [answer["input"] for answer in as_json(out)] == ["train:0", "train:2"]
    assert "train:1: there is no text" in err
    for answer, text in zip(as_json(out), ("the cat", "the dog"), strict=True):
        assert [answer["text"]] == [one["text"] for one in as_json(predict(language[0], text, *argv[3:]))]


def test_a_data_set_that_is_not_clear_is_refused(classifier, of_table, tmp_path, capsys, monkeypatch):
    model = str(classifier[0] / "model")
    monkeypatch.setattr("hf_effmodels.prediction.command.load_for_task", lambda *_: pytest.fail("a model is loaded"))
    for argv, message in [
        (("--dataset", "digits"), "--split: name one of the splits, which are train, test"),
        (("--dataset", "digits", "--split", "x"), "--split: there is no 'x', the splits are train, test"),
        ((*of_table, "--column", "x"), "--column: there is no 'x', the columns are picture, label"),
        (("photo.jpg", "--dataset", "digits"), "INPUT: got 'photo.jpg', which does not go with --dataset digits"),
        *(
            (("photo.jpg", f"--{name}", "x"), f"--{name} goes with --dataset")
            for name in ("split", "column", "dataset-config", "dataset-revision", "data-files", "data-dir")
        ),
        (("--dataset", "./nowhere"), "--dataset: there is no folder or file './nowhere'"),
        (("--dataset", "parquet", "--data-files", "{}"), "--data-files: got no files"),
    ]:
        assert main(["predict", model, *argv]) == 2, argv
        out, err = capsys.readouterr()
        assert message in err and not out, (argv, err)
    # What is neither a place nor an id is refused before the processes meet.
    monkeypatch.setattr("hf_effmodels.prediction.processes.find_processes", lambda device: pytest.fail("too late"))
    assert main(["predict", model, "--dataset", "./nowhere"]) == 2
    monkeypatch.setattr("hf_effmodels.prediction.processes.find_processes", lambda device: Processes(1, 2))
    (tmp_path / "a.jpg").touch()
    for argv, message in [
        (of_table, "--output: several processes share the inputs"),
        ((tmp_path / "a.jpg", "-", "--output", tmp_path / "x"), "INPUT: got '-', but several processes cannot share"),
        (("-", "--output", tmp_path / "x"), "INPUT: got '-', but several processes cannot share standard input"),
    ]:
        assert main(["predict", model, *map(str, argv)]) == 2
        assert message in capsys.readouterr().err


def test_the_answers_of_nobody_else_are_written_over_or_gone_on_with(tmp_path):
    (tmp_path / "there.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--output: .*there.txt is there already; name another file"):
        Answers(tmp_path / "there.txt", 1, {}, True, lambda: None)
    (tmp_path / ".found.txt.unfinished").mkdir()
    (tmp_path / ".found.txt.unfinished" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="--output: .*.found.txt.unfinished cannot be read .*; delete it"):
        Answers(tmp_path / "found.txt", 1, {}, True, lambda: None)
    assert (tmp_path / "there.txt").read_text() == "mine"


def test_processes_take_turns_and_the_first_writes_for_all(tmp_path):
    """Of six inputs the second of two processes has every other one that nobody has answered, and writes no result."""
    met = []
    first, second = (Answers(tmp_path / "out", 6, {"a": 1}, n == 0, lambda n=n: met.append(n)) for n in range(2))
    assert met == [0, 0, 1, 1], "each waits once all have looked, and once all have read"
    first.add({1: {"x": "one"}})
    second.add({4: {"x": "four"}, 0: {"x": "nought"}})
    third = Answers(tmp_path / "out", 6, {"a": 1}, False, lambda: None)
    assert third.missing(0, 2) == [2, 5] and third.missing(1, 2) == [3]
    assert second.finish(str) == 3 and not (tmp_path / "out").exists()
    assert first.finish(lambda answer: answer["x"] + ";") == 3 and (tmp_path / "out").read_text() == "nought;one;four;"
    assert met == [0, 0, 1, 1, 1, 1, 0, 0] and not first.folder.exists()


def test_missing_folders_are_made_and_what_was_begun_there_is_gone_on_with(tmp_path):
    place = tmp_path / "new" / "deeper" / "out.txt"
    begun = Answers(place, 2, {}, True, lambda: None)
    begun.add({0: {"x": "one"}})
    again = Answers(place, 2, {}, True, lambda: None)
    assert again.missing(0, 1) == [1]
    again.add({1: {"x": "two"}})
    assert again.finish(lambda answer: answer["x"] + ";") == 0 and place.read_text() == "one;two;"
    assert [path.name for path in place.parent.iterdir()] == ["out.txt"]


def test_a_data_set_needs_its_library(monkeypatch, capsys, classifier):
    monkeypatch.setitem(sys.modules, "hf_effmodels.training.data.pictures", None)
    assert main(["predict", str(classifier[0] / "model"), "--dataset", "digits", "--split", "test"]) == 2
    assert "--dataset needs an extra: pip install 'hf_effmodels[train]'" in capsys.readouterr().err


def test_a_table_has_its_header_also_where_nothing_is_found_first():
    as_text = in_form("csv", SimpleNamespace(rows=lambda said: said["boxes"]))
    assert as_text("a", {"boxes": []}) == ""
    assert as_text("b", {"boxes": [{"label": "cat"}]}) == "input,label\nb,cat\n"
    assert as_text("c", {"boxes": [{"label": "dog"}]}) == "c,dog\n"


def test_torchrun_starts_a_module_as_a_module(monkeypatch):
    """A file of the package by itself would import its neighbours as libraries."""
    started = []
    asked = SimpleNamespace(num_machines=1, num_processes=2, machine_rank=0)
    monkeypatch.setattr(launch, "_launcher_arguments", lambda: asked)
    monkeypatch.setattr(launch.os, "execv", lambda program, words: started.append(words[words.index("1234") + 1 :]))
    monkeypatch.setattr(sys, "argv", ["/somewhere/hf_effmodels/__main__.py", "predict", "out"])
    for spec in (SimpleNamespace(name="hf_effmodels.__main__"), None):
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1234"), ("ACCELERATE_USE_CPU", "true")):
            monkeypatch.setenv(name, value)
        for name in launch.WORLD_SIZES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
        launch.start_missing_processes()
    assert started == [["-m", "hf_effmodels", "predict", "out"], [sys.argv[0], "predict", "out"]]


@pytest.mark.thorough
def test_accelerate_launches_it(classifier, of_table, tmp_path):
    import subprocess

    output = tmp_path / "found.jsonl"
    argv = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "hf_effmodels", "predict"]
    argv += [str(classifier[0] / "model"), *of_table, "--output", str(output)]
    subprocess.run([sys.executable, *argv], check=False, capture_output=True)
    assert len(as_json(output.read_text())) == ROWS - 1


@pytest.mark.parametrize("takes", ["image", "text"])
def test_inputs_are_known_again_by_their_names_and_by_what_they_hold(takes, tmp_path):
    """Of pictures what the files hold counts, of texts these themselves."""
    for name, colour in (("a", 10), ("b", 20), ("c", 30)):
        Image.new("L", (3, 3), colour).save(tmp_path / f"{name}.png")
    places = {name: tmp_path / f"{name}.png" if takes == "image" else name for name in "abc"}

    def known(*given):
        return numbered([Input(name, places[value], f"{name}-stem") for name, value in given], takes)

    given = known(("x", "a"), ("y", "b"))
    assert (given.count, given.get(1).name, given.stem(0)) == (2, "y", "x-stem")
    first = given.facts()
    assert first == known(("x", "a"), ("y", "b")).facts()
    for other in ([("x", "a"), ("z", "b")], [("x", "a"), ("y", "c")], [("x", "a")], [("x", "b"), ("y", "a")]):
        assert known(*other).facts() != first, other
    if takes == "image":
        places["a"].write_bytes(places["c"].read_bytes())
        assert known(("x", "a"), ("y", "b")).facts() != first


@pytest.mark.parametrize("count, stem", [(1, "train-0"), (10, "train-0"), (11, "train-00"), (1001, "train-0000")])
def test_rows_are_called_by_as_many_digits_as_their_last_has(count, stem, monkeypatch):
    class Pictures:
        split, images = "parquet/train", range(count)

        def __len__(self):
            return count

        def facts(self):
            return {"rows": count}

    asked = []
    monkeypatch.setattr(
        "hf_effmodels.training.data.pictures.load_picture_split", lambda *given: asked.append(given) or Pictures()
    )
    fields = {"dataset_config": None, "dataset_revision": None, "data_dir": None, "data_files": "a.parquet"}
    given = SimpleNamespace(dataset="parquet", split="train", column="photo", token="mine", **fields)
    rows = load_rows(given, "image")
    assert (rows.count, rows.stem(0), rows.facts()) == (count, stem, {"rows": count})
    last = rows.get(count - 1)
    assert (last.name, last.value, last.stem) == (f"train:{count - 1}", count - 1, f"train-{count - 1}")
    ((args, split, token),) = asked
    assert (args.dataset, args.data_files, args.image_column, split, token) == (
        "parquet", "a.parquet", "photo", "train", "mine"
    )  # fmt: skip


def test_only_the_first_of_several_processes_shows_how_far_it_is_and_says_how_many_failed(tmp_path, monkeypatch):
    shown, bars, kept, known = [], [], {}, []

    class Some:
        def __init__(self, file, count, settings, is_first, wait):
            known.append((is_first, settings))

        def missing(self, index, count):
            return [number for number in range(3) if number % count == index]

        def add(self, answers):
            kept.update(answers)

        def finish(self, as_text):
            return 1

    predictor = Predictor("x", "text", lambda texts: [{"said": text} for text in texts], str, list)
    rows = Numbered(3, lambda n: Input(f"train:{n}", ["a", " ", "c"][n]), str, lambda: {"rows": "abc"})
    monkeypatch.setattr(run, "show", shown.append)
    monkeypatch.setattr(run, "Answers", Some)
    answers = run._answers

    def watched(predictor, items, arguments, hidden, total):
        bars.append((hidden, total))
        return answers(predictor, items, arguments, hidden, total)

    monkeypatch.setattr(run, "_answers", watched)
    how = {"json": False, "csv": False, "batch_size": 2, "model": "m", "revision": "v2", "save": None}
    how = SimpleNamespace(output=str(tmp_path / "out.jsonl"), **how)
    both = [Processes(index, 2, None, lambda: None) for index in (0, 1)]
    assert [run.predict(predictor, Options(top_k=3), rows, how, each) for each in both] == [1, 0]
    assert bars == [(False, 2), (True, 1)]
    assert shown == [f"{tmp_path / 'out.jsonl'}: 2 answers\n"]
    settings = {"model": "m", "revision": "v2", "task": "x", "save": None, "rows": "abc", **vars(Options(top_k=3))}
    assert known == [(True, settings), (False, settings)]
    assert kept == {0: {"input": "train:0", "said": "a"}, 2: {"input": "train:2", "said": "c"}}


@pytest.mark.parametrize(
    "name, flags, form",
    [
        ("out.csv", {}, "csv"),
        ("out.CSV", {}, "csv"),
        ("out.json", {}, "json"),
        ("out.jsonl", {}, "json"),
        ("out.txt", {}, "lines"),
        ("out", {}, "lines"),
        ("out.csv", {"json": True}, "json"),
        ("out.json", {"csv": True}, "csv"),
    ],
)
def test_answers_are_in_the_form_that_is_named_or_that_of_the_files_ending(name, flags, form, tmp_path, monkeypatch):
    predictor = Predictor("x", "text", lambda texts: [{} for _ in texts], str, list)
    rows = Numbered(1, lambda n: Input("a", "a"), str, dict)
    monkeypatch.setattr(run, "in_form", lambda asked, predictor: lambda item, said: asked)
    how = {"save": None, "output": str(tmp_path / name), "json": False, "csv": False, "batch_size": 2, **flags}
    run.predict(predictor, Options(), rows, SimpleNamespace(model="m", revision=None, **how), Processes())
    assert (tmp_path / name).read_text() == form


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_there_for_those_who_look_on_and_goes_by_the_inputs_of_each_batch(hidden, terminal, monkeypatch):
    bars = Bars()
    monkeypatch.setattr("tqdm.tqdm", bars)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    predictor = Predictor("chat", "text", lambda texts: [{} for _ in texts], str, list)
    items = ((number, Input(str(number), "a")) for number in range(5))
    how = SimpleNamespace(batch_size=2, save=None)
    assert [count for count, _ in run._answers(predictor, items, how, hidden, 5)] == [2, 2, 1] == bars.moved
    assert bars.made == [{"desc": "chat", "unit": "text", "total": 5, "disable": hidden or not terminal}]


def test_a_place_that_cannot_be_written_is_told_by_the_option_and_the_systems_reason():
    with pytest.raises(
        OSError, match=r"^--output: /proc/none/x.csv cannot be written \(No such file or directory\)\.$"
    ):
        Answers(Path("/proc/none/x.csv"), 1, {}, True, lambda: None)


def test_rows_of_texts_are_known_again_by_their_texts(monkeypatch):
    texts = [{"text": "one"}, {"text": "two"}]
    asked = []
    monkeypatch.setattr(
        "hf_effmodels.training.data.text.documents.load_text_split",
        lambda *given: asked.append(given) or ("train", texts),
    )
    fields = {"dataset_config": None, "dataset_revision": None, "data_dir": None, "data_files": None}
    rows = load_rows(SimpleNamespace(dataset="a.txt", split=None, column=None, token="mine", **fields), "text")
    assert (rows.count, rows.get(1), rows.stem(1)) == (2, Input("train:1", "two"), "1")
    before = rows.facts()
    texts[1] = {"text": "three"}
    assert rows.facts() != before
    texts[1] = {"text": "two"}
    assert rows.facts() == before and asked[0][0].text_unit == "line" and asked[0][1:] == (None, "mine")


@pytest.mark.parametrize("cut", ["", "{", '{"number": 1', '{"number": 1, "answer": {"x": "é', "whole"])
def test_a_line_that_a_kill_has_cut_is_done_again_wherever_it_was_cut(cut, tmp_path):
    place, line = tmp_path / "out.txt", json.dumps({"number": 1, "answer": {"x": "cut"}})
    begun = Answers(place, 3, {}, True, lambda: None)
    begun.add({2: {"x": "é two"}})
    (part,) = begun.folder.glob("*.jsonl")
    whole = part.read_bytes()
    part.write_bytes(whole + (line if cut == "whole" else cut).encode()[: -1 if "é" in cut else None])
    again = Answers(place, 3, {}, True, lambda: None)
    assert again.missing(0, 1) == [0, 1]
    again.add({1: {"x": "one"}, 0: {"x": "nought"}})
    assert again.finish(lambda answer: answer["x"] + ";") == 0
    assert place.read_text(encoding="utf-8") == "nought;one;é two;"


def test_answers_are_in_the_order_of_the_inputs_whoever_has_them_and_however_many_there_are(tmp_path):
    """More than ten, in files of several processes; each is written once, also what two have answered."""
    first, second = (Answers(tmp_path / "out", 13, {}, n == 0, lambda: None) for n in range(2))
    second.add({number: {"x": number} for number in (12, 2, 10, 0)})
    first.add({number: {"x": number} for number in (11, 1, 9, 3)})
    second.add({number: {"x": number} for number in (3, 4)})
    again = Answers(tmp_path / "out", 13, {}, True, lambda: None)
    assert [again.missing(index, 3) for index in range(3)] == [[5, 8], [6], [7]]
    assert first.finish(lambda answer: f"{answer['x']} ") == 4
    assert (tmp_path / "out").read_text() == "0 1 2 3 4 9 10 11 12 "


def test_what_is_answered_is_kept_at_once_and_read_back_as_it_was(tmp_path):
    said = {"text": 'a "line"\n and\u2028more é', "classes": [{"label": "x", "score": 0.1 + 0.2}], "none": None}
    own = Answers(tmp_path / "out", 2, {}, True, lambda: None)
    own.add({1: said})
    assert Answers(tmp_path / "out", 2, {}, False, lambda: None).missing(0, 1) == [0], "a kill may come now"
    told = []
    assert own.finish(lambda answer: told.append(answer) or "") == 1 and told == [said]


@pytest.mark.parametrize("now", [{"a": 2, "b": 1}, {"a": 1, "b": None}, {"a": 1, "b": 1, "c": 0}])
def test_any_setting_that_is_another_one_is_named_and_nothing_is_gone_on_with(now, tmp_path):
    begun = Answers(tmp_path / "out", 1, {"a": 1, "b": 1}, True, lambda: None)
    begun.add({0: {"x": 1}})
    (name,) = (name for name in "abc" if {"a": 1, "b": 1}.get(name, "x") != now.get(name, "x"))
    with pytest.raises(ValueError, match=rf"^--output: .*out was begun with another {name} \(.*delete .*unfinished"):
        Answers(tmp_path / "out", 1, now, True, lambda: None)
    assert not Answers(tmp_path / "out", 1, {"b": 1, "a": 1}, True, lambda: None).missing(0, 1)


FIELDS = {"dataset_config": "en", "dataset_revision": "v2", "data_dir": None, "data_files": "a.parquet"}


@pytest.mark.parametrize("takes", ["image", "text"])
@pytest.mark.parametrize("name", ["column", *FIELDS])
def test_each_word_about_a_data_set_reaches_whoever_reads_it(name, takes, monkeypatch):
    asked = []

    def load(args, split, token):
        asked.append((args, split, token))
        raise ValueError("it is enough")

    for place in ("pictures.load_picture_split", "text.documents.load_text_split"):
        monkeypatch.setattr(f"hf_effmodels.training.data.{place}", load)
    plain = dict.fromkeys([*FIELDS, "column"]) | {"data_files": "a.parquet"}
    value = {"column": "question", "data_dir": "here"}.get(name, FIELDS.get(name))
    given = SimpleNamespace(dataset="parquet", split="test", token="mine", **{**plain, name: value})
    with pytest.raises(ValueError, match="it is enough"):
        load_rows(given, takes)
    ((args, split, token),) = asked
    assert (args.dataset, split, token) == ("parquet", "test", "mine")
    assert getattr(args, name if name != "column" else f"{takes}_column") == value


def test_the_column_of_texts_that_is_named_is_the_one_that_is_read(tmp_path):
    """Of a table with several."""
    rows = [{"question": "why", "answer": "so", "number": 1}, {"question": "who", "answer": "they", "number": 2}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"dataset_config": None, "dataset_revision": None, "data_dir": None}
    given = {"dataset": "json", "data_files": str(tmp_path / "a.jsonl"), "split": None, "token": None, **fields}
    for column, texts in (("question", ["why", "who"]), ("answer", ["so", "they"])):
        found = load_rows(SimpleNamespace(column=column, **given), "text")
        assert [found.get(row).value for row in range(found.count)] == texts
    with pytest.raises(ValueError, match="question"):
        load_rows(SimpleNamespace(column=None, **given), "text")
