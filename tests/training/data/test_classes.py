"""A class of a data set is the model's class of the same name; by position only where names say nothing."""

import json
import logging
import shutil

import pytest
import torch
from PIL import Image
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessorPil

from hf_effmodels.training import evaluate, prepare
from hf_effmodels.training.data.classes import is_generic, mapped_names, model_classes, shown
from hf_effmodels.training.run.arguments import ModelArguments
from hf_effmodels.training.tasks.image_classification.data import DataArguments, load_data, load_evaluation_data
from hf_effmodels.training.tasks.image_classification.models import load_classifier

from ..tasks.image_classification.test_data import parquet, write_parquet

LABELS = [f"LABEL_{n}" for n in range(3)]


def test_equal_names_are_equal_classes_whatever_their_order_and_number():
    assert model_classes(["cat", "dog", "eel"], ["dog", "eel", "cat"]) == [2, 0, 1]
    assert model_classes(["eel", "cat"], ["cat", "dog", "eel"]) == [2, 0]
    assert model_classes(["crane", "dog", "crane"], ["crane", "dog", "crane"]) == [0, 1, 2]
    assert model_classes(["dog"], ["crane", "dog", "crane"]) == [1]  # nobody asks for the others
    with pytest.raises(ValueError, match="--label_mapping: the model has two classes called 'crane'"):
        model_classes(["crane", "dog"], ["crane", "dog", "crane"])


def test_where_one_side_has_no_names_the_position_counts_and_it_is_said(caplog):
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        assert model_classes(["cat", "dog", "eel"], LABELS) == [0, 1, 2]
    assert "cat = LABEL_0, dog = LABEL_1, eel = LABEL_2" in caplog.text
    assert model_classes(LABELS, ["cat", "dog", "eel"]) == [0, 1, 2]
    assert model_classes(["2", "0", "1"], ["cat", "dog", "eel"]) == [2, 0, 1]
    assert model_classes(["3", "1", "2"], ["cat", "dog", "eel"]) == [2, 0, 1]
    assert model_classes(["cat", "dog", "eel"], ["1", "2", "0"]) == [2, 0, 1]
    # Folders come sorted as texts: "10" before "2".
    folders, names = sorted(map(str, range(11))), [f"class {chr(97 + n)}" for n in range(11)]
    assert model_classes(folders, names) == [int(folder) for folder in folders]
    assert model_classes(folders, [f"LABEL_{n}" for n in range(11)]) == [int(folder) for folder in folders]


def test_names_with_commas_are_told_apart_by_semicolons():
    assert shown(["tench, Tinca tinca", "goldfish"]) == "tench, Tinca tinca; goldfish"
    assert shown(["tench", "goldfish"]) == "tench, goldfish"


def test_of_many_or_long_names_the_first_are_shown():
    assert shown([str(number) for number in range(21)]) == f"{', '.join(map(str, range(20)))}, ..."
    assert shown([f"{letter}" * 40 for letter in "abcd"]) == f"{'a' * 40}, {'b' * 40}, {'c' * 40}, ..."
    long = [f"{letter * 20}, {letter}" for letter in "abcdefgh"]  # 23 characters each, of at most 120 four with marks
    assert shown(long) == f"{'; '.join(long[:4])}; ..."


@pytest.mark.parametrize(
    "names, own",
    [
        (["a_dark", "b_bright"], ["bright", "dark"]),
        (["cat", "dog"], ["cat", "eel"]),
        (["5", "7"], ["bright", "dark"]),
        (["2", "3"], ["bright", "dark"]),
        (["bright", "dark"], ["5", "7"]),
        (["cat", "dog", "eel"], ["LABEL_0", "LABEL_1"]),
        (["0", "1"], ["cat", "dog", "eel"]),
        (["LABEL_0", "dog"], ["cat", "eel"]),
    ],
)
def test_otherwise_both_lists_are_shown(names, own):
    with pytest.raises(ValueError) as error:
        model_classes(names, own)
    told = f"({len(names)}: {', '.join(names)}) are not the model's ({len(own)}: {', '.join(own)})"
    assert told in str(error.value) and f"--label_mapping says which is which, such as '{{{names[0]}:" in str(
        error.value
    )


def test_what_names_no_class():
    assert is_generic(LABELS) and is_generic(["0", "1"]) and is_generic(["label_1", "LABEL_2"])
    assert not is_generic(["LABEL_0", "cat"]) and not is_generic(["4", "5"]) and not is_generic(["1", "1"])
    assert not is_generic(["LABEL_", "1"])


def test_a_mapping_gives_classes_other_names_and_joins_them():
    names, table = mapped_names(["tabby", "dog", "siamese"], {"tabby": "cat", "siamese": "cat"}, "x/train", True)
    assert names == ["cat", "dog"] and table.tolist() == [0, 1, 0]
    names, table = mapped_names(["ant", "bee"], {"ant": "wasp"}, "x/train", True)
    assert names == ["wasp", "bee"] and table.tolist() == [0, 1]
    assert mapped_names(["0", "1"], {1: 5}, "x/train", True)[0] == ["0", "5"]
    with pytest.raises(ValueError, match="--label_mapping: x/train has no class 'taby'; nearest: tabby"):
        mapped_names(["tabby", "dog"], {"taby": "cat"}, "x/train", True)
    with pytest.raises(ValueError, match="has no class 'zz'; there are tabby, dog"):
        mapped_names(["tabby", "dog"], {"zz": "cat"}, "x/train", True)
    assert mapped_names(["dog"], {"tabby": "cat"}, "x/test", False)[0] == ["dog"]
    with pytest.raises(ValueError, match="--label_mapping: got None for a"):
        DataArguments(dataset="x", label_mapping="{a: null}")


def test_labels_are_mapped_in_training_and_evaluation(tmp_path):
    files = {
        "train": write_parquet(tmp_path / "a.parquet", ["tabby", "dog", "siamese", "dog"]),
        "test": write_parquet(tmp_path / "b.parquet", ["siamese", "dog"]),
    }
    args = parquet(tmp_path, data_files=files, label_mapping="{tabby: cat, siamese: cat}")
    train, test = load_data(args)
    assert [train.names[label] for label in train.labels] == ["cat", "dog", "cat", "dog"]
    assert train.names == test.names and [test.names[label] for label in test.labels] == ["cat", "dog"]
    alone = load_evaluation_data(args)
    assert [alone.names[label] for label in alone.labels] == ["cat", "dog"]
    numbers = {"train": write_parquet(tmp_path / "c.parquet", [5, 900, 5, 900], names=None)}
    args = parquet(tmp_path, data_files=numbers, label_mapping={5: "five", 900: "many"}, eval_split="train")
    train, _ = load_data(args)
    assert [train.names[label] for label in train.labels] == ["five", "many"] * 2


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A model that says "bright" (0) or "dark" (1) of a picture, and is right."""
    folder = tmp_path_factory.mktemp("judge")
    config = ConvNextConfig(
        patch_size=2,
        hidden_sizes=[2, 2],
        depths=[1, 1],
        num_stages=2,
        image_size=8,
        num_labels=2,
        id2label={0: "bright", 1: "dark"},
        label2id={"bright": 0, "dark": 1},
    )
    model = ConvNextForImageClassification(config)
    model.save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 8}, crop_pct=0.875).save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    def make(**values):
        for name, value in values.items():
            (tmp_path / "photos" / "train" / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.new("RGB", (8, 8), (value + number,) * 3)
                picture.save(tmp_path / "photos" / "train" / name / f"{number}.png")
        return ["--dataset", "imagefolder", "--data_dir", str(tmp_path / "photos"), "--cache_dir", str(tmp_path / "c")]

    return make


def judged(judge, arguments, tmp_path, monkeypatch):
    """Accuracy of a network that says class 0 of bright pictures and class 1 of dark ones."""

    def forward(self, pixel_values=None, labels=None, **kwargs):
        light = pixel_values.mean((1, 2, 3))
        return {"logits": torch.stack((light, -light), dim=1)}

    monkeypatch.setattr(ConvNextForImageClassification, "forward", forward)
    arguments = ["--model", str(judge), *arguments, "--output", str(tmp_path / "evaluation.json")]
    return evaluate(arguments)["accuracy"]


def test_an_evaluation_never_guesses_which_class_is_which(judge, folders, tmp_path, monkeypatch):
    arguments = folders(a_dark=10, b_bright=240)
    with pytest.raises(ValueError, match=r"classes \(2: a_dark, b_bright\) are not the model's \(2: bright, dark\)"):
        judged(judge, arguments, tmp_path, monkeypatch)
    mapping = ["--label_mapping", "{a_dark: dark, b_bright: bright}"]
    assert judged(judge, [*arguments, *mapping], tmp_path, monkeypatch) == 1.0


def test_names_in_another_order_are_the_same_classes(judge, folders, tmp_path, monkeypatch):
    assert judged(judge, folders(dark=10, bright=240), tmp_path, monkeypatch) == 1.0


def test_bare_numbers_are_the_models_numbers(judge, folders, tmp_path, monkeypatch):
    assert judged(judge, folders(**{"0": 240, "1": 10}), tmp_path, monkeypatch) == 1.0


def test_training_goes_on_with_the_classes_of_the_head(judge, folders, tmp_path, caplog):
    arguments = ["--model", str(judge), *folders(dark=10, bright=240), "--output_dir", str(tmp_path / "run")]
    run = prepare("prepare_training", arguments)
    assert run.trainer.model.config.id2label == {0: "bright", 1: "dark"}
    # The folders come sorted: bright before dark.
    mapping = ["--label_mapping", "{bright: dark, dark: bright}"]
    swapped = prepare("prepare_training", [*arguments, *mapping])
    assert swapped.trainer.model.config.id2label == {0: "bright", 1: "dark"}
    for trainer, labels in ((run.trainer, {0, 1}), (swapped.trainer, {1, 0})):
        source = trainer.train_dataset.source
        assert source.names == ["bright", "dark"] and set(source.labels.tolist()) == labels
    for name in ("train_dataset", "eval_dataset"):
        assert [getattr(r.trainer, name)[0]["labels"] for r in (run, swapped)] == [0, 1]
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        other = prepare("prepare_training", [*arguments, "--label_mapping", "{bright: cat, dark: dog}"])
    assert other.trainer.model.config.id2label == {0: "cat", 1: "dog"}
    assert "is for other classes (bright, dark), as many as the data set has (cat, dog)" in caplog.text


@pytest.mark.parametrize(
    "own, from_scratch, stays, warned",
    [
        (["n01443537", "n01440764"], False, True, False),  # ImageNet's numbers of goldfish and tench
        (["goldfish", "tench"], False, False, True),
        (["goldfish", "tench"], True, False, False),
        (["LABEL_0", "LABEL_1"], False, False, False),
    ],
)
def test_a_head_goes_on_whatever_its_classes_are_called(own, from_scratch, stays, warned, judge, tmp_path, caplog):
    shutil.copytree(judge, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"id2label": dict(enumerate(own)), "label2id": {name: number for number, name in enumerate(own)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        model, _ = load_classifier(ModelArguments(model=str(tmp_path)), names, from_scratch=from_scratch)
    assert model.config.id2label == dict(enumerate(own if stays else names))
    assert ("is for other classes" in caplog.text) == warned
    caplog.clear()  # for another number of classes the head is a new one
    model, _ = load_classifier(ModelArguments(model=str(tmp_path), ignore_mismatched_sizes=True), [*"abc"])
    assert model.config.num_labels == 3 and "is for other classes" not in caplog.text


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 5, 900, 0], r"the labels of .*train go up to 900, but only 3 different ones occur \(0, 5, 900\)"),
        (
            [0, 2**40, 0, 1],
            r"row 1 of parquet/train: column 'label' holds 1099511627776, accepted are numbers",
        ),
        ([3, 3, 3, 3], "train has one class only"),
        (["cat", "cat"], "train has one class only"),
        (["cat", None, "dog"], "row 1 of parquet/train: column 'label' holds None: it has no class"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message, convnext_folder, tmp_path):
    file = write_parquet(tmp_path / "a.parquet", labels, names=None)
    arguments = ["--model", str(convnext_folder), "--ignore_mismatched_sizes", "true", "--dataset", "parquet"]
    arguments += ["--data_files", file, "--cache_dir", str(tmp_path / "cache"), "--eval_split", "train"]
    with pytest.raises(ValueError, match=message):
        prepare("prepare_training", [*arguments, "--output_dir", str(tmp_path / "run")])


def test_numbers_may_miss_some_classes_and_a_mapping_must_leave_two(convnext_folder, tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [0, 1, 11, 14, 15, 3, 4, 5], names=None)
    arguments = ["--model", str(convnext_folder), "--ignore_mismatched_sizes", "true", "--dataset", "parquet"]
    arguments += ["--data_files", file, "--cache_dir", str(tmp_path / "cache"), "--eval_split", "train"]
    arguments += ["--output_dir", str(tmp_path / "run"), "--max_train_samples", "3"]
    # The number of classes is of all labels, whatever is used of them.
    assert prepare("prepare_training", arguments).trainer.model.config.num_labels == 16
    mapping = "{" + ", ".join(f"{number}: one" for number in range(16)) + "}"
    with pytest.raises(ValueError, match="has one class only"):
        prepare("prepare_training", [*arguments, "--label_mapping", mapping])
