"""Every task evaluates on the same split for the same arguments, in training and by itself."""

import io
import logging
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_effmodels.training.data.arguments import SplitArguments
from hf_effmodels.training.data.splits import (
    evaluation_split,
    find_column,
    held_out_unasked,
    load_splits,
    number_held_out,
    only_split,
    pick_split,
    stratified_choice,
    stratified_sample,
)
from hf_effmodels.training.data.stored_names import check_stored_names
from hf_effmodels.training.data.text import documents
from hf_effmodels.training.data.text.arguments import TextArguments
from hf_effmodels.training.tasks.image_classification import data as classification
from hf_effmodels.training.tasks.image_text_to_text import sources
from hf_effmodels.training.tasks.image_text_to_text.arguments import VisionLanguageDataArguments
from hf_effmodels.training.tasks.super_resolution import data as super_resolution

#: Samples of the training and of the evaluation split.
TRAIN, TEST = 20, 3


def _rows(tmp_path, split, count, start=0):
    """A Parquet file whose row n is known by the brightness, the name, the answer and the text n."""
    rows = {
        "image": [Image.new("RGB", (8, 8), (start + n,) * 3) for n in range(count)],
        "label": [n % 2 for n in range(count)],
        "question": ["Which?"] * count,
        "answer": [str(start + n) for n in range(count)],
        "text": [f"{start + n}" for n in range(count)],
        "name": [str(start + n) for n in range(count)],
    }
    features = datasets.Features(
        {name: datasets.Value("string") for name in rows}
        | {"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    )
    file = tmp_path / f"{split}.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(file))
    return str(file)


def _opened(image):
    return Image.open(io.BytesIO(image["bytes"]))


def _images(source):
    return [int(np.asarray(_opened(source.images[int(row)]))[0, 0, 0]) for row in source.rows]


def _samples(samples):
    return [int(samples[index].references[0]) for index in range(len(samples))]


def _texts(texts):
    return [int(text) for text in documents.read(texts)]


TASKS = {
    "image-classification": (
        *(classification.DataArguments, classification.load_data, classification.load_evaluation_data, _images, {}),
    ),
    "super-resolution": (
        *(super_resolution.SuperResolutionDataArguments, super_resolution.load_data),
        *(super_resolution.load_evaluation_data, lambda source: [int(source.name(i)) for i in range(len(source))], {}),
    ),
    "image-text-to-text": (
        *(VisionLanguageDataArguments, sources.load_data, sources.load_evaluation_data, _samples),
        {"data_format": "table"},
    ),
    "causal-lm": (
        *(TextArguments, documents.load_texts, documents.load_evaluation_texts, _texts, {"text_column": "text"}),
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {
        "train": _rows(folder, "train", TRAIN),
        "test": _rows(folder, "test", TEST, 100),
        "extra": _rows(folder, "extra", TEST, 200),
        "cache": str(folder / "cache"),
    }


@pytest.fixture(params=list(TASKS))
def task(request, files):
    """(splits to give, arguments) -> numbers of the samples to train on, to evaluate on in training, and alone."""
    arguments, load_data, load_evaluation_data, numbers, own = TASKS[request.param]

    def load(*splits, training=True, **options):
        given = {name: files[name] for name in splits}
        args = arguments(dataset="parquet", data_files=given, cache_dir=files["cache"], **own, **options)
        alone = numbers(load_evaluation_data(args))
        if not training:
            return alone
        train, evaluation = load_data(args)
        return numbers(train), numbers(evaluation), alone

    return load


EVERYTHING = set(range(TRAIN))


@pytest.mark.parametrize("splits", [("train",), ("train", "test")])
@pytest.mark.parametrize("options, count", [({"eval_fraction": 0.2}, 4), ({"eval_holdout": 7}, 7)])
def test_what_is_held_out_is_evaluated_and_never_trained_on(task, splits, options, count):
    train, evaluation, alone = task(*splits, **options)
    assert len(evaluation) == count and evaluation == alone
    assert set(train) | set(evaluation) == EVERYTHING and not set(train) & set(evaluation)


def test_the_usual_split_is_evaluated_where_nothing_is_said(task):
    train, evaluation, alone = task("train", "test")
    assert set(train) == EVERYTHING and sorted(evaluation) == sorted(alone) == [100, 101, 102]


def test_the_split_that_is_named_is_evaluated(task):
    for split, expected in (("extra", [200, 201, 202]), ("test", [100, 101, 102]), ("train", sorted(EVERYTHING))):
        train, evaluation, alone = task("train", "test", "extra", eval_split=split)
        assert set(train) == EVERYTHING and sorted(evaluation) == sorted(alone) == expected
    with pytest.raises(ValueError, match="--eval_split: there is no 'val', the splits are train, test"):
        task("train", "test", eval_split="val", training=False)


def test_without_a_split_training_holds_some_out_and_an_evaluation_takes_all_with_a_warning(task, caplog):
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        train, evaluation, alone = task("train")
    assert 1 <= len(evaluation) <= 2 and not set(train) & set(evaluation) and len(train) + len(evaluation) == TRAIN
    assert set(alone) == EVERYTHING
    assert "evaluating on all of parquet/train, its only split" in caplog.text and "evaluate` takes" in caplog.text


def test_of_several_splits_without_a_usual_name_one_is_asked_for(task):
    with pytest.raises(ValueError, match="--eval_split: name one of the splits of parquet, which are train, extra"):
        task("train", "extra", training=False)


def test_another_data_set_is_evaluated_in_training_and_alone(task, files, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    _rows(folder, "test", 2, 50)
    train, evaluation, alone = task("train", "test", eval_dataset=str(folder))
    assert set(train) == EVERYTHING and sorted(evaluation) == sorted(alone) == [50, 51]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eval_holdout": TRAIN}, f"--eval_holdout: {TRAIN} of the {TRAIN} samples of parquet/train leave none"),
        ({"eval_holdout": 0}, "--eval_holdout: got 0"),
        ({"eval_fraction": 1.0}, "--eval_fraction: got 1.0"),
        ({"eval_fraction": 0.1, "eval_holdout": 1}, "--eval_fraction and --eval_holdout exclude each other"),
        ({"eval_fraction": 0.1, "eval_split": "test"}, "--eval_fraction and --eval_split exclude each other"),
        ({"eval_holdout": 1, "eval_dataset": "x"}, "--eval_holdout and --eval_dataset exclude each other"),
    ],
)
def test_wrong_combinations_are_refused(task, options, message):
    with pytest.raises(ValueError, match=message):
        task("train", "test", **options)


def test_a_stream_holds_out_its_first_documents(files, caplog):
    args = TextArguments(
        "parquet",
        data_files={"train": files["train"]},
        text_column="text",
        streaming=True,
        cache_dir=files["cache"],
        eval_holdout=3,
    )
    train, evaluation = documents.load_texts(args)
    assert _texts(evaluation) == _texts(documents.load_evaluation_texts(args)) == [0, 1, 2]
    assert _texts(train) == list(range(3, TRAIN))
    args.eval_holdout, args.eval_documents = None, 2
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        assert _texts(documents.load_texts(args)[1]) == _texts(documents.load_evaluation_texts(args)) == [0, 1]
    assert not caplog.records
    args.data_files = {name: files[name] for name in ("train", "test")}
    assert _texts(documents.load_texts(args)[1]) == _texts(documents.load_evaluation_texts(args)) == [100, 101]


@pytest.mark.parametrize("kind, nested", [("parquet", False), ("parquet", True), ("arrow", False)])
def test_files_that_number_their_classes_otherwise_are_refused(kind, nested, tmp_path):
    """`datasets` gives the rows of all files the names of the first: every second cat would be a dog."""

    def write(name: str, *names: str) -> str:
        label = datasets.ClassLabel(names=list(names))
        features = {"objects": datasets.List({"category": label})} if nested else {"label": label}
        numbers = [label.str2int("dog")]
        rows = {"objects": [[{"category": number}] for number in numbers]} if nested else {"label": numbers}
        table = datasets.Dataset.from_dict(rows, datasets.Features(features))
        if kind == "parquet":
            table.to_parquet(tmp_path / name)
        else:
            with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_stream(sink, table.data.schema) as writer:
                writer.write_table(table.data.table)
        return str(tmp_path / name)

    def load(**files):
        return load_splits(SplitArguments(kind, data_files=files, cache_dir=str(tmp_path / "cache")), None)

    one, same, other = write("a", "cat", "dog"), write("b", "cat", "dog"), write("c", "dog", "cat")
    assert set(load(train=[one, same], test=[same])) == {"train", "test"}
    column = "objects.category" if nested else "label"
    for files in ({"train": [one], "validation": [other]}, {"train": [same, other]}):
        for _ in "downloaded", "from the cache":
            with pytest.raises(
                ValueError, match=f"^--dataset: '{kind}', .* '{column}' are cat, dog in .*[ab], but dog, cat in .*c:"
            ):
                load(**files)


@pytest.mark.parametrize(
    "name, content, kind, message",
    [
        ("text", b"", ValueError, "^--dataset: 'text', with --data_files FILE: there is nothing in it.$"),
        ("json", b"", ValueError, "^--dataset: 'json', with --data_files FILE: there is nothing in it.$"),
        ("csv", b"", OSError, "^--dataset: 'csv' cannot be read, with --data_files FILE .No columns"),
        ("json", b"{nope", OSError, "^--dataset: 'json' cannot be read, with --data_files FILE .JSON parse error"),
        (
            "csv",
            None,
            OSError,
            "^--dataset: 'csv' cannot be found or reached, with --data_files FILE .* Without network",
        ),
    ],
)
def test_files_that_hold_nothing_or_something_else_are_named(name, content, kind, message, tmp_path):
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(kind, match=message.replace("FILE", str(file))):
        load_splits(SplitArguments(name, data_files=str(file), cache_dir=str(tmp_path / "cache")), None)


def test_folders_and_files_that_are_no_data_set_are_told_from_those_that_are_not_there(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "empty").mkdir()

    def load(dataset, **options):
        load_splits(SplitArguments(str(dataset), cache_dir=str(tmp_path / "cache"), **options), None)

    with pytest.raises(ValueError, match="a.csv' is a file; accepted are .* imagefolder with --data_files .*a.csv"):
        load(tmp_path / "a.csv")
    with pytest.raises(OSError, match="empty' cannot be read .*contain any data files"):
        load(tmp_path / "empty")
    with pytest.raises(OSError, match="'imagefolder' cannot be read, with --data_dir .*empty"):
        load("imagefolder", data_dir=str(tmp_path / "empty"))
    with pytest.raises(OSError, match="'imagefolder' cannot be found or reached, with --data_dir .*nowhere"):
        load("imagefolder", data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="--dataset_revision: got 'v1', but --dataset .* lies here"):
        load(tmp_path, dataset_revision="v1")


def test_the_split_and_the_column_that_are_meant_are_found_or_asked_for():
    splits = {"train": 1, "test": 2}
    assert pick_split(splits, "--x", "test") == 2
    assert only_split(splits, "--x", "test") == "test" and only_split({"all": 1}, "--x", None) == "all"
    for name, told in (("val", "there is no 'val', the splits are train, test"), (None, "name one of the splits")):
        with pytest.raises(ValueError, match=f"^--x: {told}"):
            only_split(splits, "--x", name)
    columns = ("picture", "image", "label", "img")
    assert find_column("x", "label", ["picture"], ("image",), columns) == "label"
    assert find_column("x", None, ["picture"], ("image",), columns) == "picture"
    assert find_column("x", None, [], ("image", "photo"), columns) == "image"
    for asked_for, typed, told in (
        ("other", [], "--x: there is no 'other', the columns are picture, image, label, img"),
        (
            None,
            ["picture", "image"],
            "--x: it could be any of picture, image; say which of the columns it is: picture,",
        ),
        (None, [], "--x: it could be any of image, img;"),
    ):
        with pytest.raises(ValueError, match=f"^{told}"):
            find_column("x", asked_for, typed, ("image", "img"), columns)
    with pytest.raises(ValueError, match="^--x: it is not clear; say which of the columns it is: picture"):
        find_column("x", None, [], ("photo",), columns)


def test_another_data_set_has_files_configuration_and_revision_of_its_own():
    own = {"data_files": "a.csv", "data_dir": "d", "dataset_config": "c", "dataset_revision": "v1"}
    args = SplitArguments("mine", eval_dataset="other", eval_split="val", cache_dir="here", train_split="all", **own)
    other = args.of_eval_dataset()
    assert (other.dataset, other.eval_dataset, other.argument) == ("other", None, "--eval_dataset")
    assert {name: getattr(other, name) for name in own} == dict.fromkeys(own)
    assert (other.eval_split, other.cache_dir, other.train_split) == ("val", "here", "all")
    assert args.argument == "--dataset" and args.data_files == "a.csv"


def test_all_that_is_said_of_a_data_set_reaches_the_library_that_reads_it(monkeypatch):
    given = {}

    def load_dataset(**source):
        given.update(source)
        return {"train": datasets.Dataset.from_dict({"text": ["a"]})}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = {"data_files": {"train": "a.csv"}, "data_dir": "part", "cache_dir": "kept"}
    args = SplitArguments(dataset="owner/rows", dataset_config="easy", dataset_revision="v2", **said)
    assert load_splits(args, "secret", streaming=True)["train"]["text"] == ["a"]
    expected = {"path": "owner/rows", "name": "easy", "revision": "v2", "token": "secret", "streaming": True}
    assert given == expected | said
    load_splits(args, None, name="csv", data_files="b.csv")
    assert (given["path"], given["data_files"], given["token"]) == ("csv", "b.csv", None)


def test_names_of_classes_are_read_from_every_kind_of_file_and_from_the_cache_of_the_hub(tmp_path, monkeypatch):
    def table(*names):
        label = datasets.ClassLabel(names=list(names))
        return datasets.Dataset.from_dict({"label": [0]}, datasets.Features({"label": label})).data.table

    one, other = table("cat", "dog"), table("dog", "cat")
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, one.schema) as writer:
        writer.write_table(one)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    pq.write_table(other, tmp_path / "same.parquet")
    files = [str(tmp_path / name) for name in ("stream.arrow", "file.arrow", "same.parquet")]
    check_stored_names(files[1:])
    for pair in (files[:2], files[::2]):
        with pytest.raises(ValueError, match=f"column 'label' are cat, dog in {pair[0]}, but dog, cat in {pair[1]}:"):
            check_stored_names(pair)
    check_stored_names([files[0], str(tmp_path / "gone.parquet")])  # its rows are in the cache
    asked = []

    def cached(**names):
        asked.append(names)
        return files[1] if names["filename"] == "data/b.arrow" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    check_stored_names([files[0], "hf://datasets/org/set@v1/data/a.arrow"])
    with pytest.raises(ValueError, match="but dog, cat in hf://datasets/org/set@v1/data/b.arrow"):
        check_stored_names([files[0], "hf://datasets/org/set@v1/data/b.arrow"])
    assert asked[0] == {"repo_id": "org/set", "revision": "v1", "filename": "data/a.arrow", "repo_type": "dataset"}


def test_many_names_of_classes_are_shown_by_their_first(tmp_path):
    files = []
    for number, names in enumerate((map(str, range(9)), map(str, range(8, -1, -1)))):
        label = datasets.ClassLabel(names=list(names))
        rows = datasets.Dataset.from_dict({"label": [0]}, datasets.Features({"label": label}))
        files.append(str(tmp_path / f"{number}.parquet"))
        rows.to_parquet(files[-1])
    with pytest.raises(ValueError, match=r"are 0, 1, 2, 3, 4, \.\.\. in .*, but 8, 7, 6, 5, 4, \.\.\. in"):
        check_stored_names(files)


def test_an_evaluation_is_told_what_was_held_out_where_nobody_said_so():
    def args(fraction=None, number=None):
        return SimpleNamespace(eval_fraction=fraction, eval_holdout=number)

    assert held_out_unasked(args(), "photos/train (held out)") == {"eval_fraction": 0.1}
    for said, split in ((args(), "photos/test"), (args(0.2), "a (held out)"), (args(None, 5), "a (held out)")):
        assert held_out_unasked(said, split) == {}


def test_stratified_samples_are_of_every_class():
    labels = np.repeat([0, 1, 2, 3], [40, 10, 4, 1])
    mask = stratified_sample(labels, 0.25)
    assert np.bincount(labels[mask], minlength=4).tolist() == [10, 2, 1, 0]
    assert np.array_equal(mask, stratified_sample(labels, 0.25))
    for number in (1, 11, 30, 53, 54):
        mask = stratified_choice(labels, number)
        assert mask.sum() == number and np.array_equal(mask, stratified_choice(labels, number))
    # 11 of 55 is a fifth of each: 8, 2, 0.8 and 0.2; the last of a class stays as long as others have some left.
    assert np.bincount(labels[stratified_choice(labels, 11)], minlength=4).tolist() == [8, 2, 1, 0]
    assert np.bincount(labels[stratified_choice(labels, 51)], minlength=4).tolist() == [39, 9, 3, 0]


def test_the_share_held_out_is_rounded_and_leaves_something():
    for total, fraction, expected in (
        (20, 0.1, 2),
        (24, 0.1, 2),
        (26, 0.1, 3),
        (3, 0.01, 1),
        (2, 0.9, 1),
        (9, 0.5, 4),
    ):
        args = SplitArguments(dataset="x", eval_fraction=fraction)
        assert number_held_out(args, total, "x/train", default=99) == expected
    assert number_held_out(SplitArguments(dataset="x"), 40, "x/train") == 4
    assert number_held_out(SplitArguments(dataset="x"), 40, "x/train", default=7) == 7
    usual = ["test", "val", "valid", "validation"]
    for number in range(4):
        assert evaluation_split(SplitArguments(dataset="x"), ["train", *usual[: number + 1]]) == usual[number]
    assert evaluation_split(SplitArguments(dataset="x"), ["train", "dev"]) is None
    with pytest.raises(ValueError, match="x/train has 1 samples: nothing can be held out"):
        number_held_out(SplitArguments(dataset="x"), 1, "x/train")


def test_a_report_names_the_split_that_was_evaluated(files):
    given = {name: files[name] for name in ("train", "test")}
    for options, expected in (
        ({}, "test"),
        ({"eval_split": "train"}, "train"),
        ({"eval_fraction": 0.1}, "train (held out)"),
        ({"streaming": True, "eval_documents": 2}, "test"),
        ({"streaming": True, "eval_holdout": 2}, "train (held out)"),
    ):
        args = TextArguments("parquet", data_files=given, text_column="text", cache_dir=files["cache"], **options)
        assert documents.evaluated_split(args, documents.load_texts(args)[1]) == expected


def test_images_to_enlarge_are_held_out_evenly_and_columns_are_of_their_own_data_set(files, tmp_path):
    source = {"data_files": {"train": files["train"]}, "cache_dir": files["cache"], "image_column": "image"}
    args = super_resolution.SuperResolutionDataArguments("parquet", eval_holdout=3, **source)
    train, evaluation = super_resolution.load_data(args)
    assert evaluation.rows.tolist() == [0, 10, 19] and len(train) == TRAIN - 3
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photos" / "one.png")
    args = super_resolution.SuperResolutionDataArguments("parquet", eval_dataset=str(tmp_path / "photos"), **source)
    _, evaluation = super_resolution.load_data(args)
    assert evaluation.name(0) == "one" and evaluation.image(0)[:, 0, 0].tolist() == [255, 0, 0]


def test_a_package_that_reading_lacks_is_named_as_it_is(monkeypatch):
    def load(*_, **__):
        raise ImportError("To support decoding images, please install 'Pillow'.")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ImportError, match="^To support decoding images, please install 'Pillow'.$"):
        load_splits(SplitArguments("imagefolder"), None)
