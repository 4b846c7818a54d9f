import io
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_effmodels.training.tasks.image_classification.data import (
    DataArguments,
    ImageClassificationDataset,
    LabelledImages,
    _numbered,
    check_labels,
    load_data,
    load_evaluation_data,
)
from hf_effmodels.training.tasks.image_classification.mixing import SAMPLE_SEED, UNMIXED
from hf_effmodels.training.tasks.image_classification.task import _mixed_epochs


def picture(value):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(file, labels, names=("cat", "dog", "eel"), column="label", image="img", **features):
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    if labels and isinstance(labels[0], str):
        label = datasets.Value("string")
    features = datasets.Features({image: datasets.Image(), column: label})
    rows = {image: [picture(10 * i) for i in range(len(labels))], column: labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(file))
    return str(file)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def parquet(tmp_path, **options):
    return DataArguments(dataset="parquet", cache_dir=str(tmp_path / "cache"), **options)


def identity(image, rng=None):
    return int(np.asarray(image).mean())


def test_digits_are_split_the_same_way_each_time():
    train, test = load_data(DataArguments(dataset="digits"))
    again, _ = load_data(DataArguments(dataset="digits"))
    assert (len(train), len(test)) == (1438, 359) and train.names == [str(n) for n in range(10)]
    assert np.array_equal(train.labels, again.labels) and list(train.images) == list(again.images)
    assert np.bincount(test.labels).min() >= 34
    sample = ImageClassificationDataset(train, identity, 3)[0]
    assert sample["labels"] == train.labels[0] and sample["pixel_values"] > 0


def test_parquet_columns_and_names_are_found(tmp_path):
    files = {
        "train": write_parquet(tmp_path / "a.parquet", [0, 1, 2, 1]),
        "test": write_parquet(tmp_path / "b.parquet", [2, 0]),
    }
    train, test = load_data(parquet(tmp_path, data_files=files))
    assert train.names == test.names == ["cat", "dog", "eel"]
    assert train.labels.tolist() == [0, 1, 2, 1] and test.labels.tolist() == [2, 0]
    assert [ImageClassificationDataset(train, identity, 3)[i]["pixel_values"] for i in range(4)] == [0, 10, 20, 30]
    assert load_evaluation_data(parquet(tmp_path, data_files=files)).labels.tolist() == [2, 0]


def test_an_imagefolder_is_read_by_its_folders(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for name in ("eel", "cat"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i}.png")
    options = {"cache_dir": str(tmp_path / "cache"), "data_dir": str(tmp_path / "images")}
    train, test = load_data(DataArguments(dataset="imagefolder", **options))
    assert train.names == ["cat", "eel"] and sorted(train.labels) == [0, 0, 0, 1, 1, 1] and len(test) == 2


def test_without_a_split_to_evaluate_on_some_of_each_class_is_held_out(tmp_path, caplog):
    caplog.set_level("INFO")
    file = write_parquet(tmp_path / "a.parquet", [0] * 20 + [1] * 20 + [2] * 2)
    train, test = load_data(parquet(tmp_path, data_files=file, eval_fraction=0.25))
    assert np.bincount(test.labels).tolist() == [5, 5, 1] and np.bincount(train.labels).tolist() == [15, 15, 1]
    assert not set(train.rows) & set(test.rows)
    assert "evaluating on 11 of the 42 samples of parquet/train" in caplog.text
    load_data(parquet(tmp_path, data_files=file, eval_fraction=0.32))  # 6 + 6 + 1, and not 0.32 of all
    assert "evaluating on 13 of the 42 samples" in caplog.text
    train, test = load_data(parquet(tmp_path, data_files=file, eval_holdout=21))
    assert np.bincount(test.labels).tolist() == [10, 10, 1] and np.bincount(train.labels).tolist() == [10, 10, 1]
    _, test = load_data(parquet(tmp_path, data_files=file, eval_holdout=10))
    assert len(test) == 10  # just as many, whatever the shares of the classes are rounded to
    few, _ = load_data(parquet(tmp_path, data_files=file, eval_fraction=0.25, max_train_samples=6))
    assert len(few) == 6 and len(set(few.labels)) > 1


def test_texts_become_classes_and_both_splits_agree_on_them(tmp_path):
    files = {
        "train": write_parquet(tmp_path / "a.parquet", ["eel", "cat", "dog"]),
        "test": write_parquet(tmp_path / "b.parquet", ["eel", "dog"]),
    }
    train, test = load_data(parquet(tmp_path, data_files=files))
    assert (
        train.names == ["cat", "dog", "eel"] and train.labels.tolist() == [2, 0, 1] and test.labels.tolist() == [2, 1]
    )
    files["test"] = write_parquet(tmp_path / "c.parquet", ["eel", "fox"])
    with pytest.raises(ValueError, match="test has classes that .*train lacks: fox"):
        load_data(parquet(tmp_path, data_files=files))
    # ImageNet's folders are called by numbers: they, and --classes by them, are known by words.
    numbers = ["n01443537", "n01440764", "n01443537", "n01484850"]
    files = {"train": write_parquet(tmp_path / "n.parquet", numbers)}
    tench, fish, shark = "tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark"
    train = load_evaluation_data(parquet(tmp_path, data_files=files, eval_split="train"))
    assert train.names[:2] == [tench, fish] and train.names[2].startswith(shark)
    some = parquet(tmp_path, data_files=files, eval_split="train", classes=["n01484850", "n01443537"])
    train = load_evaluation_data(some)
    assert train.names[1] == fish and train.names[0].startswith(shark) and train.labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "labels, options, message",
    [
        ([0, 1], {"image_column": "image"}, "--image_column.*'image'.*columns are img, label"),
        ([0, 1], {"label_column": "klass"}, "--label_column.*'klass'.*columns are img, label"),
        ([0, 1], {"train_split": "training"}, "--train_split.*'training'.*splits are train"),
        ([0, 1], {"eval_split": "val"}, "--eval_split.*'val'.*splits are train"),
        ([0, -1, 2, -1], {"eval_fraction": 0.5}, "row 1.*label -1.*without labels.*2 of 4"),
        ([0, None, 1], {"eval_fraction": 0.5}, "row 1.*None"),
        ([], {"eval_fraction": 0.5}, "--dataset: 'parquet'.*no data"),
        ([0, 10**6 + 1], {"eval_fraction": 0.5}, r"row 1 of .*holds 1000001, accepted are numbers of classes up to"),
        ([0, 1], {"eval_fraction": 0.5, "id_column": "name"}, "--id_column: there is no 'name', the columns are img"),
        (
            [0, 1],
            {"eval_split": "train", "classes": ["0", "7"]},
            "--classes: .*has no class '7'; there are 0, 1",
        ),
    ],
)
def test_wrong_data_is_refused_by_name(labels, options, message, tmp_path):
    file = write_parquet(tmp_path / "a.parquet", labels, names=None)
    with pytest.raises(ValueError, match=message):
        load_data(parquet(tmp_path, data_files=file, **options))


def test_ids_of_pictures_are_those_of_their_column(tmp_path):
    """They stay those of all rows of the split, so that a picture finds its own by its row."""
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.Value("int64"), "name": datasets.Value("string")}
    )
    rows = {"img": [picture(n) for n in range(4)], "label": [0, 1, 0, 1], "name": list("abcd")}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    options = {"data_files": str(tmp_path / "a.parquet"), "eval_split": "train", "max_eval_samples": 2}
    source = load_evaluation_data(parquet(tmp_path, id_column="name", **options))
    assert [source.ids[int(row)] for row in source.rows] == ["a", "d"] and source.labels.tolist() == [0, 1]


@pytest.mark.parametrize("kinds", [(["a", 1], "1"), ([1, "b"], "'b'"), ([0, 1.5], "1.5"), ([0, True], "True")])
def test_classes_are_numbers_or_texts_throughout(kinds, monkeypatch):
    values, said = kinds
    rows = [{"image": Image.new("RGB", (8, 8)), "label": value} for value in values]
    monkeypatch.setattr("hf_effmodels.training.data.pictures.load_image_splits", lambda *_: {"train": rows})
    with pytest.raises(ValueError, match=f"row 1 of digits/train: column 'label' holds {said}, accepted is one class"):
        load_data(DataArguments(dataset="digits", eval_fraction=0.5))


def test_classes_with_names_and_classes_without_are_told_apart(tmp_path):
    files = {
        "train": write_parquet(tmp_path / "a.parquet", ["cat", "dog"]),
        "test": write_parquet(tmp_path / "b.parquet", [0, 1], names=None),
    }
    one, two = (parquet(tmp_path, data_files=files[name], eval_split="train") for name in ("train", "test"))
    assert load_evaluation_data(one).names == ["cat", "dog"] and load_evaluation_data(two).names is None
    one.eval_split, one.eval_dataset = None, str(tmp_path / "b")
    (tmp_path / "b").mkdir()
    (tmp_path / "b.parquet").rename(tmp_path / "b" / "test.parquet")
    with pytest.raises(ValueError, match="parquet/train and .*b/test disagree: only one of them has class names"):
        load_data(one)


def test_columns_that_could_be_several_are_asked_for(tmp_path):
    rows = {"left": [picture(1)], "right": [picture(2)], "label": [0]}
    features = {"left": datasets.Image(), "right": datasets.Image(), "label": datasets.Value("int64")}
    file = str(tmp_path / "a.parquet")
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(file)
    with pytest.raises(ValueError, match="--image_column: it could be any of left, right"):
        load_data(parquet(tmp_path, data_files=file))


@pytest.mark.parametrize(
    "options",
    [
        {"dataset": "somebody/not-in-the-cache"},
        {"dataset": "imagefolder", "data_dir": "nowhere"},
        {"dataset": "parquet", "data_files": "nowhere.parquet"},
    ],
)
def test_data_that_cannot_be_reached_is_named(options):
    with pytest.raises(OSError, match=f"--dataset: '{options['dataset']}' cannot be found or reached"):
        load_data(DataArguments(**options))


def test_a_broken_picture_is_named_with_its_row(tmp_path):
    rows = {"image": [picture(1), {"bytes": b"broken", "path": None}, None], "label": [0, 1, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    file = str(tmp_path / "a.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    images = ImageClassificationDataset(
        load_evaluation_data(parquet(tmp_path, data_files=file, eval_split="train")), identity, 3
    )
    assert images[0]["pixel_values"] == 1
    with pytest.raises(OSError, match="row 1 of parquet/train: the file is not an image"):
        images[1]
    with pytest.raises(ValueError, match="row 2 of parquet/train: there is no image"):
        images[2]
    with pytest.raises(OSError, match="row 1 of parquet/train"):
        images.source.select([1]).read(0, 3)


def test_randomness_depends_on_seed_epoch_and_picture_only():
    source, _ = load_data(DataArguments(dataset="digits", max_train_samples=10))
    draws = ImageClassificationDataset(source, lambda image, rng: rng.random(), 1, seed=3)
    for epoch, index in ((0, 0), (0, 7), (2, 7)):
        rng = np.random.default_rng((3, epoch, index))
        sample = draws[epoch * 10 + index]
        assert sample[SAMPLE_SEED] == int(rng.integers(2**32)) and sample["pixel_values"] == rng.random()
        assert sample["labels"] == source.labels[index]


@pytest.mark.parametrize(
    "epochs, off, mixed",
    [(5, 2, 3), (5, 1, 4), (5, 0, 5), (2, 2, 0), (2, 9, 0), (4.5, 2, 3)],  # a part of an epoch is one as well
)
def test_as_many_of_the_last_epochs_go_unmixed_as_are_asked_for(epochs, off, mixed):
    count = _mixed_epochs(SimpleNamespace(mix_off_epochs=off, num_train_epochs=epochs, max_steps=-1))
    source = SimpleNamespace(read=lambda index, channels: index, labels=[0, 1, 0])
    images = type("Three", (ImageClassificationDataset,), {"__len__": lambda self: 3})(
        source, lambda image, rng=None: image, 3, seed=0, mixed_epochs=count
    )
    unmixed = [epoch for epoch in range(5) if any(UNMIXED in images[3 * epoch + index] for index in range(3))]
    assert unmixed == [epoch for epoch in range(5) if epoch >= mixed]
    assert all(images[3 * epoch + index][UNMIXED] is True for epoch in unmixed for index in range(3))


@pytest.mark.parametrize("column", ["nope", "", "picture"])
def test_a_column_that_a_built_in_data_set_lacks_is_refused(column):
    for name in ("image", "label"):
        with pytest.raises(ValueError, match=f"--{name}_column: there is no '{column}' in digits/.*, it is '{name}'"):
            load_data(DataArguments(dataset="digits", **{f"{name}_column": column}))
    assert load_data(DataArguments(dataset="digits", image_column="image", label_column="label"))


def test_some_classes_alone_are_all_there_are(tmp_path):
    train, test = load_data(DataArguments(dataset="digits", classes=[7, "2"]))
    whole, _ = load_data(DataArguments(dataset="digits"))
    assert train.names == test.names == ["7", "2"] and set(train.labels) == set(test.labels) == {0, 1}
    assert train.numbers.tolist() == test.numbers.tolist() == [0, 1]
    one = load_evaluation_data(DataArguments(dataset="digits", classes=["7"]))
    assert one.numbers.tolist() == [0]  # nothing to tell apart
    assert train.rows[train.labels == 0].tolist() == whole.rows[whole.labels == 7].tolist()
    mapped = DataArguments(dataset="digits", classes=["even"], label_mapping={"2": "even", "4": "even"})
    assert load_evaluation_data(mapped).names == ["even"]
    names = {"a": write_parquet(tmp_path / "names.parquet", ["x", "y"])}
    given = parquet(tmp_path, data_files=names, eval_split="a", label_mapping={"x": "n01440764", "y": "n01443537"})
    assert load_evaluation_data(given).names == ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    numbers = {"train": write_parquet(tmp_path / "n.parquet", [3, 0, 5, 3], names=None)}
    train, _ = load_data(parquet(tmp_path, data_files=numbers, classes=["3", "5"], eval_holdout=1))
    assert train.names == ["3", "5"] and len(train) == 2
    with pytest.raises(ValueError, match=r"--classes: digits/train has no class '12'; nearest: "):
        load_data(DataArguments(dataset="digits", classes=["1", "12"]))
    with pytest.raises(ValueError, match=r"--classes: digits/test has no class '77'; nearest: 7"):
        load_evaluation_data(DataArguments(dataset="digits", classes=["77"]))
    for wrong in (["1", "1"], "1", [1.5]):
        with pytest.raises(ValueError, match="--classes: "):
            DataArguments(dataset="digits", classes=wrong)


def test_columns_that_losses_read_are_added_to_the_training_samples_of_a_set_of_its_own():
    source = SimpleNamespace(read=lambda index, channels: index, labels=[0, 1, 0])
    images = ImageClassificationDataset(source, lambda image, rng=None: image, 3, seed=0)
    one = images.with_column("tens", lambda index: 10 * index)
    both = one.with_column("hundreds", lambda index: 100 * index)
    rng = np.random.default_rng
    own = {"labels", "pixel_values", SAMPLE_SEED, "index"}
    assert images.sample(2, rng(0)).keys() == own and one.sample(2, rng(0)).keys() == {*own, "tens"}
    sample = both.sample(2, rng(0))
    assert sample.keys() == {*own, "tens", "hundreds"} and (sample["tens"], sample["hundreds"]) == (20, 200)
    assert both.sample(2, None).keys() == {"labels", "pixel_values"}  # of an evaluation


def test_numbers_of_classes_reach_up_to_a_million():
    labels, names = _numbered([0, 21840, 10**6], "label", "x")
    assert labels.tolist() == [0, 21840, 10**6] and names is None
    with pytest.raises(ValueError, match="row 1 of x: column 'label' holds 1000001, accepted are numbers of classes"):
        _numbered([0, 10**6 + 1], "label", "x")


def test_a_training_without_labels_evaluates_by_the_column_that_is_named(tmp_path):
    """Which it would not find by itself."""
    files = {
        "train": write_parquet(tmp_path / "a.parquet", [0, 1, 1, 0], names=None, column="kind"),
        "test": write_parquet(tmp_path / "b.parquet", [1, 0], names=None, column="kind"),
    }
    train, evaluation = load_data(parquet(tmp_path, data_files=files, label_column="kind"), labelled=False)
    assert train.labels.tolist() == [0] * 4 and evaluation.labels.tolist() == [1, 0]
    assert load_data(parquet(tmp_path, data_files=files), labelled=False)[1] is None


@pytest.mark.parametrize("wrong", [None, {"a": 1}, ["a"]])
def test_what_a_class_is_mapped_to_is_a_name(wrong):
    assert DataArguments(dataset="digits", label_mapping={"0": 7}).label_mapping == {"0": 7}
    with pytest.raises(ValueError, match=r"^--label_mapping: got .* for 0, accepted are names\.$"):
        DataArguments(dataset="digits", label_mapping={"0": wrong})


def test_pictures_are_known_again_by_their_labels_and_by_what_these_are_called():
    def facts(labels, names):
        pictures = [Image.new("L", (2, 2), value) for value in range(3)]
        labels = np.array(labels)
        return LabelledImages(pictures, "mine", np.arange(3), labels, names, np.unique(labels)).facts()

    first = facts([0, 1, 1], ["cat", "dog"])
    assert first == facts([0, 1, 1], ["cat", "dog"])
    for other in (facts([0, 1, 0], ["cat", "dog"]), facts([0, 1, 1], ["dog", "cat"]), facts([0, 1, 1], None)):
        assert other["labels"] != first["labels"] and {**other, "labels": first["labels"]} == first


@pytest.mark.parametrize("table, names, numbers", [
    ([2, 0, 1, 3], [*"bcad"], [0, 1, 2]),
    ([0, 0, 1, 5], [*"ab????"], [0, 1]),  # two of a class now
    ([4, 9, 9, 9], [*"0123456789"], [4, 9]),
])  # fmt: skip
def test_pictures_of_other_numbers_know_which_there_are(table, names, numbers):
    """Of four classes three have pictures in the split; of two pictures that are chosen one has the largest number."""
    labels = np.array([0, 2, 1, 0, 2])
    source = LabelledImages([None] * 5, "mine", np.arange(5), labels, [*"abcd"], np.unique(labels))
    found = source.select([3, 1]).renumbered(table, names)
    assert found.labels.tolist() == [table[0], table[2]] and found.rows.tolist() == [3, 1]
    assert found.numbers.tolist() == numbers and found.names == names
    assert source.numbers.tolist() == [0, 1, 2] and source.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    "labels, said",
    [
        ([0, 5, 1, -2], "row 9 of data/train has the label 5, accepted are 0 to 1. 2 of 4 labels are"),
        ([0, 1, -1, 5], r"row 4 of data/train has the label -1 \(-1 marks a split without labels\), accepted"),
        ([0, 1, -2, 1], "row 4 of data/train has the label -2, accepted are 0 to 1. 1 of 4 labels are"),
    ],
)
def test_a_label_that_is_no_class_is_named_with_its_row_in_the_whole_table(labels, said):
    source = LabelledImages([], "data/train", np.array([7, 9, 4, 2]), np.array(labels), None, np.unique(labels))
    with pytest.raises(ValueError, match=f"^{said}"):
        check_labels(source, 2)
    assert check_labels(source.select(np.array([0])), 2) is None


@pytest.mark.parametrize("labels", [[-1, -1, -1], [None, None, None], [-1, None, -1]])
def test_a_table_whose_labels_are_none_has_pictures_and_nothing_to_evaluate_by(labels, tmp_path):
    file = write_parquet(tmp_path / "a.parquet", labels, names=None)
    train, evaluation = load_data(parquet(tmp_path, data_files=file), labelled=False)
    assert evaluation is None and len(train) == 3 and train.labels.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="row [01] of parquet/train"):
        load_data(parquet(tmp_path, data_files=file))
    with pytest.raises(ValueError, match="row [01] of parquet/train"):  # of a column that is named it is a mistake
        load_data(parquet(tmp_path, data_files=file, label_column="label"), labelled=False)
