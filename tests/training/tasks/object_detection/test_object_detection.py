"""Data of every form, its errors, augmentation, average precision, and a run of Gold-YOLO."""

import inspect
import json
import math
import shutil
import weakref
from dataclasses import fields, replace
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ConvNextConfig, YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

import hf_effmodels
from hf_effmodels.metrics.coco_ap import Detections, average_precision, confusion
from hf_effmodels.training import evaluate, main
from hf_effmodels.training.data.classes import numbered_as
from hf_effmodels.training.data.detection_augment import affine_matrix, flip_left_right, warp_boxes
from hf_effmodels.training.data.digit_canvases import CANVASES
from hf_effmodels.training.data.errors import SampleError
from hf_effmodels.training.losses.detection_distillation import class_score_distillation
from hf_effmodels.training.optim.detection_schedule import DetectionSchedule, scaled_weight_decay
from hf_effmodels.training.tasks.object_detection import evaluation as measuring
from hf_effmodels.training.tasks.object_detection import models, transforms
from hf_effmodels.training.tasks.object_detection.arguments import (
    DetectionArguments,
    DetectionAugmentationArguments,
    DetectionEvaluationArguments,
    DetectorArguments,
)
from hf_effmodels.training.tasks.object_detection.data import (
    DetectionDataArguments,
    DetectionImages,
    _yolo_objects,
    load_data,
    load_evaluation_data,
)
from hf_effmodels.training.tasks.object_detection.evaluation import _truth as truth_of
from hf_effmodels.training.tasks.object_detection.evaluation import measure, postprocess
from hf_effmodels.training.tasks.object_detection.models import load_detector
from hf_effmodels.training.tasks.object_detection.transforms import DetectionCollator, DetectionDataset
from hf_effmodels.training.tasks.object_detection.transforms import _squared as squared

from ....modeling.tiny.gold_yolo import TINY
from ....processes import run_in_two
from ..contract import history, weights

BOX = [4.0, 6.0, 10.0, 8.0]  # x, y, width, height in an image of 32×24
CORNERS = [4.0, 6.0, 14.0, 14.0]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "data"
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB" if number else "L", (32, 24), 90).save(folder / "images" / split / f"{number}.png")
    return folder


def coco(folder, annotations=None, **more):
    content = {
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
        "images": [{"id": 10 + n, "file_name": f"{n}.png"} for n in (2, 0, 1)],  # they go by their ids
        "annotations": annotations
        if annotations is not None
        else [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": BOX},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 32, 24], "iscrowd": 1},
            {"id": 3, "image_id": 11, "category_id": 3, "bbox": [-5, 2, 400, 4]},
            {"id": 4, "image_id": 11, "category_id": 3, "bbox": [5, 5, 0, 4]},
        ],
        **more,
    }
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))
    paths = {"annotations": "{split}.json", "image_folder": "images/{split}"}
    return DetectionDataArguments(dataset=str(folder), **paths)


def test_coco_files_have_classes_without_gaps_and_clipped_boxes(pictures):
    train, evaluation = load_data(coco(pictures), None)
    assert train.names == ["three", "seven"] and len(train) == len(evaluation) == 3
    image, rows, crowd = train.read(0)
    assert image.shape == (24, 32, 3)  # a gray one, too
    assert rows.tolist() == [[1, *CORNERS], [0, 0, 0, 32, 24]] and crowd.tolist() == [False, True]
    assert train.read(1)[1].tolist() == [[0, 0, 2, 32, 6]]  # clipped; the empty one is left out
    assert train.read(2)[1].shape == (0, 5)
    # Crowds are not trained on; in a measure they excuse what is found in them.
    sample = DetectionDataset(train)[0]
    assert sample["rows"].tolist() == [[1, *CORNERS]] and sample["crowd"].tolist() == [[0, 0, 0, 32, 24]]
    truth = truth_of(sample)
    assert truth.labels.tolist() == [1, 0] and truth.crowd.tolist() == [False, True]
    odd, _ = load_data(coco(pictures, [{"image_id": 10, "category_id": 7, "bbox": [float("nan"), 1, 2, 3]}]), None)
    with pytest.raises(ValueError, match=r"row 0 .*: a box is \[nan, .*accepted are finite numbers"):
        odd.read(0)


@pytest.mark.parametrize("crowd", [[False, True, False, True], [True, False, True, False], None])
def test_what_is_left_out_takes_its_class_and_its_mark_with_it(crowd):
    """Of four objects the first and the third have nothing inside the picture."""
    boxes = [[40, 0, 60, 9], [1, 2, 3, 4], [0, -9, 5, 0], [2, 2, 90, 90]]
    picture = Image.new("RGB", (20, 10))
    source = DetectionImages([0], lambda row: picture, lambda row, size: (boxes, [0, 1, 2, 3], crowd), [*"abcd"], "x")
    _, rows, marks = source.read(0)
    assert rows.tolist() == [[1, 1, 2, 3, 4], [3, 2, 2, 20, 10]]
    assert marks.tolist() == ([False, False] if crowd is None else crowd[1::2])
    turned = replace(source, numbers=(9, 7, 5, 3))  # of a model that numbers the classes otherwise
    assert turned.read(0)[1][:, 0].tolist() == [7, 3]


@pytest.mark.parametrize("held_out", [{"eval_holdout": 30}, {"eval_fraction": 0.25}])
def test_of_what_is_held_out_as_many_as_are_asked_for_are_taken_evenly(held_out):
    args = DetectionDataArguments(dataset="digits", max_train_samples=7, max_eval_samples=5, **held_out)
    with patch.dict(CANVASES, {"train": 120}, clear=True):
        train, evaluation = load_data(args, None)
        alone = load_evaluation_data(args, None)
        args.max_train_samples = args.max_eval_samples = None
        all_trained, all_held_out = load_data(args, None)
    assert (len(all_trained), len(all_held_out)) == (90, 30) and alone.rows == evaluation.rows
    assert [one.split for one in (train, evaluation, alone)] == ["digits/train", *["digits/train (held out)"] * 2]
    for part, whole, count in ((train, all_trained, 7), (evaluation, all_held_out, 5)):
        places = [round(number * (len(whole) - 1) / (count - 1)) for number in range(count)]
        assert part.rows == [whole.rows[place] for place in places]


def test_coco_files_may_lie_anywhere_and_their_splits_may_have_any_name(pictures, tmp_path, monkeypatch):
    args = coco(pictures)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, split in (("train", "train"), ("minival", "val"), ("test", "val")):
        shutil.copy(pictures / f"{split}.json", elsewhere / f"{name}.json")
        shutil.copytree(pictures / "images" / split, elsewhere / "pictures" / name)
    args = replace(args, annotations=str(elsewhere / "{split}.json"), image_folder=str(elsewhere / "pictures/{split}"))
    assert load_data(args, None)[1].split == f"{pictures}/test"
    args.eval_split = "minival"
    train, evaluation = load_data(args, None)
    assert (train.split, evaluation.split) == (f"{pictures}/train", f"{pictures}/minival")
    assert evaluation.image(0) == str(elsewhere / "pictures" / "minival" / "0.png") and len(evaluation.read(0)[1]) == 2
    # One file for all: some of it is held out.
    args = replace(args, annotations=str(elsewhere / "train.json"), image_folder="images/train", eval_split=None)
    args.eval_holdout = 1
    train, evaluation = load_data(args, None)
    assert (len(train), len(evaluation)) == (2, 1)
    assert train.image(0) == str(pictures / "images" / "train" / "0.png")
    # A file that is found from where the command runs needs not be in the folder.
    monkeypatch.chdir(tmp_path)
    train, _ = load_data(replace(args, annotations="elsewhere/{split}.json"), None)
    assert len(train) == 2


def test_yolo_pictures_lie_below_the_folder_that_is_named_however_deep(pictures):
    (pictures / "data.yaml").write_text("path: below\nnames: [a, b]\ntrain: images\nval: other\n")
    others = [f"other/{n}.{end}" for n, end in enumerate(("bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp"))]
    for place in ("images/deep/one.PNG", "images/two.jpeg", "images/notes.md", *others):
        (pictures / "below" / place).parent.mkdir(parents=True, exist_ok=True)
        (pictures / "below" / place).touch()
    train, evaluation = load_data(DetectionDataArguments(dataset=str(pictures)), None)
    images = pictures / "below" / "images"
    assert [train.image(row) for row in train.rows] == [str(images / "deep" / "one.PNG"), str(images / "two.jpeg")]
    assert [evaluation.image(row) for row in evaluation.rows] == [str(pictures / "below" / place) for place in others]


@pytest.mark.parametrize("names", ["[0, 1, yes]", "{2: true, 0: 0, 1: '1'}"])
def test_classes_of_yolo_that_yaml_takes_for_numbers_are_called_by_text(names, pictures):
    (pictures / "data.yaml").write_text(f"names: {names}\ntrain: images/train\nval: images/val\n")
    train, _ = load_data(DetectionDataArguments(dataset=str(pictures)), None)
    assert train.names == ["0", "1", "True"]


def test_splits_of_yolo_that_are_left_empty_are_none_and_the_test_split_is_one(pictures):
    (pictures / "data.yaml").write_text("names: [a, b]\ntrain: images/train\nval:\ntest: images/val\n")
    train, evaluation = load_data(DetectionDataArguments(dataset=str(pictures)), None)
    assert (train.split, evaluation.split) == (f"{pictures}/train", f"{pictures}/test")
    assert evaluation.image(0) == str(pictures / "images" / "val" / "0.png")


def _table(tmp_path, objects, inner, column="objects"):
    features = Features({"image": ImageFeature(), column: inner})
    rows = {"image": [Image.new("RGB", (32, 24))] * len(objects), column: objects}
    DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "table")
    return DetectionDataArguments(dataset=str(tmp_path / "table"), eval_split="train")


@pytest.mark.parametrize("column", ["objects", "annotations"])
@pytest.mark.parametrize("category", ["category", "category_id", "categories", "label", "labels", "class"])
def test_the_classes_of_a_table_are_found_by_their_usual_names(category, column, tmp_path):
    inner = {"bbox": [[Value("float64")]], category: [ClassLabel(names=["three", "seven"])]}
    args = _table(tmp_path, [{"bbox": [BOX], category: [1]}], inner, column)
    source = load_evaluation_data(args, None)
    assert source.names == ["three", "seven"] and source.read(0)[1].tolist() == [[1, *CORNERS]]


@pytest.mark.parametrize("structs", [True, False])
def test_rows_of_a_table_may_have_no_objects_at_all(structs, tmp_path):
    """Neither a list of them nor, where it is one structure, lists within it."""
    label = ClassLabel(names=["three", "seven"])
    inner = {"bbox": [[Value("float64")]], "label": [label]}
    rows = [{"bbox": [BOX], "label": [1]}, None, {"bbox": None, "label": None}]
    if structs:
        inner = [{"bbox": [Value("float64")], "label": label}]
        rows = [[{"bbox": BOX, "label": 1}], None, []]
    source = load_evaluation_data(_table(tmp_path, rows, inner), None)
    assert [len(source.read(row)[1]) for row in range(3)] == [1, 0, 0]
    assert isinstance(source.facts()["boxes"], str)


def test_objects_without_a_class_are_refused(tmp_path):
    args = _table(
        tmp_path, [{"bbox": [BOX], "colour": [1]}], {"bbox": [[Value("float64")]], "colour": [Value("int64")]}
    )
    with pytest.raises(
        ValueError, match="--objects_column: objects has bbox, colour, accepted is a column with bbox and"
    ):
        load_evaluation_data(args, None)


def test_what_is_held_out_is_the_same_in_every_run(pictures):
    """Pictures 2, 4 and 6 of ten, whatever the seed: other ones would have been trained on by an earlier run."""
    with patch.dict(CANVASES, {"train": 10}, clear=True):
        train, evaluation = load_data(DetectionDataArguments(dataset="digits", eval_holdout=3), None)
    assert evaluation.rows == [2, 4, 6] and train.rows == [0, 1, 3, 5, 7, 8, 9]


def test_classes_that_have_numbers_alone_are_called_by_them_up_to_the_largest(tmp_path):
    boxes = {"bbox": [[Value("float64")]], "category": [Value("int64")]}
    rows = {
        "image": [Image.new("RGB", (32, 24))] * 3,
        "objects": [{"bbox": [BOX], "category": [4]}, {"bbox": [], "category": []}, {"bbox": [BOX], "category": [1]}],
    }
    table = Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "objects": boxes}))
    DatasetDict(train=table, validation=table).save_to_disk(tmp_path / "table")
    train, _ = load_data(DetectionDataArguments(dataset=str(tmp_path / "table")), None)
    assert train.names == [*"01234"] and train.read(0)[1][:, 0].tolist() == [4]


def test_what_is_held_out_is_not_trained_on():
    args = DetectionDataArguments(dataset="digits", eval_holdout=100)
    args.eval_split, everything = None, range(800)
    with patch.dict(CANVASES, {"train": 800}, clear=True):
        train, evaluation = load_data(args, None)
        alone = load_evaluation_data(args, None)
    assert sorted([*train.rows, *evaluation.rows]) == [*everything] and len(evaluation) == 100
    assert evaluation.rows == alone.rows


@pytest.mark.parametrize(
    "annotation, message",
    [
        ({"image_id": 10, "category_id": 7}, "annotation 0 .* has no bbox"),
        ({"image_id": 99, "category_id": 7, "bbox": BOX}, "annotation 0 is of image 99"),
        ({"image_id": 10, "category_id": 8, "bbox": BOX}, "annotation 0 is of category 8"),
        ({"image_id": 10, "category_id": 7, "bbox": [1, 2]}, "annotation 0: bbox is"),
        ({"image_id": 10, "category_id": 7, "bbox": [1, 2, 3, 4, 5]}, "annotation 0: bbox is .*accepted are four"),
    ],
)
def test_wrong_coco_annotations_are_named(pictures, annotation, message):
    with pytest.raises(ValueError, match=message):
        load_data(coco(pictures, [annotation]), None)


def test_classes_are_told_by_their_names_wherever_they_stand(pictures, tmp_path):
    train, _ = load_data(coco(pictures), None)
    turned = numbered_as(train, ["seven", "three"], "")
    assert turned.names == ["seven", "three"]
    assert turned.read(0)[1].tolist() == [[0, *CORNERS], [1, 0, 0, 32, 24]]
    assert numbered_as(train, ["LABEL_0", "LABEL_1"], "") is train
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=[32, 32],
        patch_size=16, num_detection_tokens=3, id2label={0: "seven", 1: "eight"}, label2id={"seven": 0, "eight": 1},
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(tmp_path / "model")
    YolosImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    words = ["--task", "object-detection", "--model", str(tmp_path / "model"), "--dataset", str(pictures)]
    words += ["--annotations", "{split}.json", "--image_folder", "images/{split}"]
    with pytest.raises(ValueError, match=r"classes \(three, seven\) are not the model's \(seven, eight\)"):
        evaluate([*words, "--output", str(tmp_path / "results.json")])


def test_yolo_folders_give_the_same_boxes(pictures):
    pictures = pictures.rename(pictures.with_name("images"))  # "labels" is beside the last folder of this name
    (pictures / "data.yaml").write_text("names: {1: seven, 0: three}\ntrain: images/train\nval: images/val\n")
    labels = pictures / "labels" / "train"
    labels.mkdir(parents=True)
    x, y, w, h = BOX
    (labels / "0.txt").write_text(f"1 {(x + w / 2) / 32} {(y + h / 2) / 24} {w / 32} {h / 24}\n\n")
    (labels / "1.txt").write_text("0 0.5 0.5 0.1\n")
    (labels / "2.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    train, _ = load_data(DetectionDataArguments(dataset=str(pictures)), None)
    assert train.names == ["three", "seven"]
    assert train.read(0)[1].tolist() == [pytest.approx([1, *CORNERS])]
    with pytest.raises(ValueError, match=r"row 1 of .*1.png.*1.txt, line 1"):
        train.read(1)
    with pytest.raises(ValueError, match="row 2 .* a class is 2, accepted are whole numbers from 0 to 1"):
        train.read(2)


@pytest.mark.parametrize(
    "place, labels",
    [
        ("images/train/a.png", "labels/train/a.txt"),
        ("images/train/images/deep/a.jpg", "images/train/labels/deep/a.txt"),  # beside the last folder of this name
        ("train/a.b.png", "train/a.b.txt"),  # no such folder: beside the picture
    ],
)
def test_labels_of_yolo_lie_beside_the_last_folder_of_images_or_beside_the_picture(place, labels, tmp_path):
    picture, text = tmp_path / place, tmp_path / labels
    for file in (picture, text):
        file.parent.mkdir(parents=True, exist_ok=True)
    objects = _yolo_objects([tmp_path / "other.png", picture])
    boxes, classes, crowd = objects(1, (100, 50))
    assert (np.shape(boxes), len(classes), crowd) == ((0, 4), 0, None)  # without a file nothing is in it
    text.write_text("\n3 0.5 0.5 0.2 0.4\n   \n1 0.1 0.2 0.1 0.2\n", encoding="utf-8")
    boxes, classes, crowd = objects(1, (100, 50))
    np.testing.assert_allclose(boxes, [[40, 15, 60, 35], [5, 5, 15, 15]])
    assert classes.tolist() == [3, 1] and crowd is None
    for line, said in (("1 2 3 4", "'1 2 3 4'"), ("1 2 3 4 5 6", "'1 2 3 4 5 6'")):
        text.write_text(f"3 0.5 0.5 0.2 0.4\n\n{line}\n")
        with pytest.raises(ValueError, match=f"{text.name}, line 3: {said}, accepted are class, centre x, y, width"):
            objects(1, (100, 50))


@pytest.mark.parametrize(
    "form, box", [("coco", BOX), ("corners", CORNERS), ("yolo", [9 / 32, 10 / 24, 10 / 32, 8 / 24])]
)
def test_imagefolder_with_metadata_gives_the_same_boxes(pictures, form, box, tmp_path):
    rows = [{"file_name": "0.png", "objects": {"bbox": [box, box], "category": [1, 0], "iscrowd": [0, 1]}}]
    rows += [{"file_name": f"{n}.png", "objects": {"bbox": [], "category": [], "iscrowd": []}} for n in (1, 2)]
    for split in ("train", "val"):
        (pictures / "images" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = DetectionDataArguments(dataset=str(pictures / "images"), box_format=form, cache_dir=str(tmp_path / "cache"))
    train, _ = load_data(args, None)
    read = {len(train.read(n)[1]): train.read(n)[1:] for n in range(3)}
    assert read[2][0].tolist() == [pytest.approx([number, *CORNERS]) for number in (1, 0)]
    assert read[2][1].tolist() == [False, True] and train.names == ["0", "1"]


def test_a_picture_of_a_table_that_is_none_is_named_and_its_boxes_are_known_all_the_same(tmp_path):
    boxes = {"bbox": [[Value("float64")]], "category": [Value("int64")]}
    Image.new("RGB", (32, 24)).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = {
        "image": [{"bytes": (tmp_path / name).read_bytes(), "path": name} for name in ("whole.png", "broken.png")],
        "objects": [{"bbox": [BOX], "category": [0]}] * 2,
    }
    table = Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "objects": boxes}))
    DatasetDict(train=table, validation=table).save_to_disk(tmp_path / "table")
    train, _ = load_data(DetectionDataArguments(dataset=str(tmp_path / "table")), None)
    assert train.read(0)[1].tolist() == [[0, *CORNERS]]
    with pytest.raises((ValueError, OSError), match=r"row 1 of .*table/train.*broken\.png"):
        train.read(1)
    assert np.asarray(train.objects(1, (32, 24))[0]).tolist() == [CORNERS]


def test_objects_of_a_table_may_be_a_list_of_structures_with_the_names_of_their_classes(tmp_path):
    """`{bbox, label}` for each object, and rows without any."""
    label = ClassLabel(names=["three", "seven"])
    features = Features({"image": ImageFeature(), "objects": [{"bbox": [Value("float64")], "label": label}]})
    rows = [[{"bbox": BOX, "label": 1}, {"bbox": [0, 0, 32, 24], "label": 0}], []]
    rows = {"image": [Image.new("RGB", (32, 24))] * 2, "objects": rows}
    DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "table")
    args = DetectionDataArguments(dataset=str(tmp_path / "table"), eval_fraction=0.5, cache_dir=str(tmp_path / "c"))
    both = {len(source.read(0)[1]): source for source in load_data(args, None)}
    assert both.keys() == {0, 2} and both[2].names == ["three", "seven"]
    assert both[2].read(0)[1].tolist() == [[1, *CORNERS], [0, 0, 0, 32, 24]]
    args.objects_column = "image"
    with pytest.raises(ValueError, match="--objects_column: image has .*accepted is a column with bbox and category"):
        load_data(args, None)


@pytest.mark.parametrize(
    "content, message",
    [
        ("train: images/train\n", r"--dataset: .*data.yaml does not name the classes \(KeyError\('names'\)\)"),
        ("[1", "--dataset: .*data.yaml does not name the classes"),
        ("names: [a]\ntrain: nowhere\n", r"--dataset: .*data.yaml: there is no folder .*nowhere \(train\)"),
        ("names: [a]\n", "--dataset: .*data.yaml names neither train nor val nor test"),
    ],
)
def test_a_yolo_folder_that_says_too_little_is_named(content, message, pictures):
    (pictures / "data.yaml").write_text(content)
    with pytest.raises((ValueError, OSError), match=message):
        load_data(DetectionDataArguments(dataset=str(pictures)), None)


def test_a_file_of_annotations_that_is_not_there_is_named(pictures):
    args = coco(pictures)
    (pictures / "val.json").unlink()
    args.eval_split = "val"
    with pytest.raises(FileNotFoundError, match="--annotations: there is no file .*val.json"):
        load_data(args, None)
    (pictures / "train.json").unlink()
    args.eval_split = None
    with pytest.raises(FileNotFoundError, match="--annotations: there is no file .*train.json"):
        load_data(args, None)


def test_what_cannot_be_read_of_a_sample_is_said_with_its_row():
    """A run that meets it in its midst ends with this line."""

    def source(image, objects):
        return DetectionImages([5], lambda row: image, lambda row, size: objects, ["a"], "mine")

    picture = Image.new("RGB", (8, 8))
    for image, objects, message in (
        (b"no picture", ([], [], None), "row 5 of mine: "),
        (picture, ([[0, 0, 1]], [0], None), "row 5 of mine: its boxes cannot be read"),
        (picture, ([[0, 0, 1, 1]], [0, 0], None), "row 5 of mine: 1 boxes, 2 classes, 1 marks of crowds"),
        (picture, ([[0, 0, 1, 1]], [0], [0, 0]), "row 5 of mine: 1 boxes, 1 classes, 2 marks of crowds"),
        (picture, ([[0, 0, 1, 1]], [-1], None), "row 5 of mine: a class is -1, accepted are whole numbers from 0"),
        (picture, ([[0, 0, 1, 1]], [0.5], None), "row 5 of mine: a class is 0.5, accepted are whole numbers from 0"),
        (picture, ([[0, 0, 1, math.inf]], [0], None), "row 5 of mine: a box is .*accepted are finite numbers"),
    ):
        with pytest.raises((SampleError, OSError), match=message):
            source(image, objects).read(0)
    # What it is known by is the same as long as nothing of it changes, readable or not.
    broken, whole = source(picture, ([[0, 0, 1]], [0], None)), source(picture, ([[0, 0, 1, 1]], [0], None))
    assert broken.facts() == broken.facts() != whole.facts()


def test_another_data_set_is_what_is_evaluated_on(pictures, tmp_path):
    """In a training, and in an evaluation by itself; other classes are told."""
    second = tmp_path / "second"
    shutil.copytree(pictures, second)
    (second / "data.yaml").write_text("names: [three, seven]\nval: images/val\n")
    (pictures / "data.yaml").write_text("names: [three, seven]\ntrain: images/train\n")
    args = DetectionDataArguments(
        dataset=str(pictures), eval_dataset=str(second), max_train_samples=2, max_eval_samples=1
    )
    train, evaluation = load_data(args, None)
    assert (train.split, len(train)) == (f"{pictures}/train", 2)
    assert (evaluation.split, len(evaluation)) == (f"{second}/val", 1)
    assert load_evaluation_data(args, None).split == f"{second}/val"
    (second / "data.yaml").write_text("names: [three, eight]\nval: images/val\n")
    words = gold("plain", "--dataset", str(pictures), "--eval_dataset", str(second))
    with pytest.raises(ValueError, match=r"its classes \(three, eight\) are not those of --dataset \(three, seven\)"):
        main([*words, "--output_dir", str(tmp_path / "run")])


def test_canvases_of_digits_are_the_same_every_time_and_boxes_hold_ink():
    train, evaluation = load_data(DetectionDataArguments(dataset="digits"), None)
    assert (len(train), len(evaluation)) == (800, 120)
    image, rows, _ = train.read(5)
    assert np.array_equal(image, train.read(5)[0]) and len(rows) >= 1
    for _, x1, y1, x2, y2 in rows.astype(int):
        assert image[y1:y2, x1:x2].mean() > image.mean() + 5 or image[y1:y2, x1:x2].max() > image.mean() + 40


def test_samples_depend_on_seed_epoch_and_index_alone_and_mosaics_end():
    source = load_data(DetectionDataArguments(dataset="digits", max_train_samples=6), None)[0]
    options = DetectionAugmentationArguments(mosaic=1.0, mixup=1.0, scale=0.5, hue=0.1, close_mosaic_epochs=1)
    datasets = [DetectionDataset(source, options, 64, epochs=3, seed=4) for _ in range(2)]
    for number in (1, 8, 1):  # index 1 of epoch 0, index 2 of epoch 1
        first, second = (dataset[number] for dataset in datasets)
        assert np.array_equal(first["image"], second["image"]) and np.array_equal(first["rows"], second["rows"])
    assert not np.array_equal(datasets[0][1]["image"], datasets[0][7]["image"])
    corners = [[int(p) for p in datasets[0][n]["image"][0, 0]] for n in range(12, 18)]
    # In the last epoch single images of less than 64 pixels' height or width lie on grey.
    assert all(datasets[0][n]["image"].shape == (64, 64, 3) for n in range(18)) and len(corners) == 6
    shown = [len(datasets[0][n]["rows"]) for n in range(12, 18)]
    assert max(shown) <= 6 < max(len(datasets[0][n]["rows"]) for n in range(12))


def test_a_mixed_mosaic_has_the_boxes_of_both_and_flips_are_those_asked_for():
    source = load_data(DetectionDataArguments(dataset="digits", max_train_samples=6), None)[0]

    def sample(number, **options):
        options = DetectionAugmentationArguments(**{"horizontal_flip": 0, **options})
        return DetectionDataset(source, options, 64, epochs=3, seed=4)[number]

    one, two = (sample(1, mosaic=1.0, mixup=mixup) for mixup in (0.0, 1.0))
    assert len(two["rows"]) > len(one["rows"]) > 0 and np.array_equal(two["rows"][: len(one["rows"])], one["rows"])
    plain, flipped = sample(2), sample(2, vertical_flip=1.0)
    assert np.array_equal(flipped["image"], plain["image"][::-1])
    height, rows = len(plain["image"]), plain["rows"]
    assert np.array_equal(flipped["rows"][:, [2, 4]], height - rows[:, [4, 2]])
    # A box that shrinks with its image is no small rest of it.
    middle = DetectionImages(
        [0], lambda row: Image.new("RGB", (64, 64)), lambda row, size: ([[16, 16, 48, 48]], [0], None), ["a"], "x"
    )
    scaled = DetectionAugmentationArguments(scale=0.9, horizontal_flip=0)
    rows = [DetectionDataset(middle, scaled, 64, epochs=30, seed=1)[number]["rows"] for number in range(30)]
    assert all(len(one) == 1 for one in rows) and min(one[0, 3] - one[0, 1] for one in rows) < 10
    # In the middle of a square: two pixels above and one on the left.
    image, moved = squared(np.zeros((2, 4, 3), np.uint8), np.array([[5, 0, 0, 4, 2.0]]), 6)
    assert moved.tolist() == [[5, 1, 2, 5, 4]] and (image == 0).all(2).nonzero()[0].min() == 2


def test_the_four_pictures_of_a_mosaic_meet_in_its_middle_half():
    pictures = DetectionImages(
        [*range(4)],
        lambda row: Image.new("RGB", (64, 64)),
        lambda row, size: ([[16, 16, 48, 48]], [0], None),
        ["a"],
        "x",
    )
    dataset = DetectionDataset(pictures, DetectionAugmentationArguments(mosaic=1.0), 64, epochs=30, seed=1)
    places, made = [], transforms.mosaic

    def mosaic(images, rows, side, centre):
        places.extend(centre)
        return made(images, rows, side, centre)

    with patch.object(transforms, "mosaic", mosaic):
        for number in range(120):
            dataset[number]
    assert len(places) == 240 and 32 <= min(places) < 36 and 92 < max(places) <= 96  # of a canvas of 128


def test_what_the_model_learns_of_a_box_is_its_centre_and_its_sides():
    processor = YolosImageProcessorPil(size={"height": 24, "width": 32})
    sample = {"image": np.zeros((24, 32, 3), np.uint8), "rows": np.array([[1, *CORNERS]]), "index": 0}
    (label,) = DetectionCollator(processor, ["pixel_values"])([sample])["labels"]
    x, y, width, height = BOX
    expected = [(x + width / 2) / 32, (y + height / 2) / 24, width / 32, height / 24]
    assert label["boxes"].tolist() == [pytest.approx(expected)] and label["class_labels"].tolist() == [1]


def test_the_hundred_best_boxes_count_and_options_reach_the_rule_of_the_processor():
    asked = []

    class Suppressing:
        def post_process_object_detection(
            self, outputs, threshold, target_sizes, nms_threshold=0.9, multi_label=False
        ):
            asked.append((threshold, target_sizes.tolist(), nms_threshold, multi_label))
            scores = torch.linspace(0, 1, 150)
            return [{"scores": scores, "labels": torch.arange(150), "boxes": scores[:, None].expand(-1, 4)}]

    (found,) = postprocess(Suppressing(), None, [(24, 32)], 0.001, 0.65)
    assert asked == [(0.001, [[24, 32]], 0.65, True)]
    assert found.labels.tolist() == [*range(149, 49, -1)] and found.boxes[0].tolist() == [1.0] * 4


def test_boxes_follow_turns_and_flips():
    rows = np.array([[2, 10.0, 20.0, 30.0, 40.0]])
    quarter = affine_matrix((100, 100), (100, 100), angle=90)
    # A quarter turn about the centre takes (x, y) to (y, 100 - x).
    assert warp_boxes(rows, quarter, (100, 100), 1.0).tolist() == [pytest.approx([2, 20, 70, 40, 90])]
    sheared = affine_matrix((100, 100), (100, 100), shear=(45, 0))
    # x grows by y - 50: the box widens by its height.
    assert warp_boxes(rows, sheared, (100, 100), 1.0).tolist() == [[2, 0, 20, pytest.approx(20), 40]]
    assert warp_boxes(rows[:0], sheared, (100, 100), 1.0).shape == (0, 5)  # a picture without boxes
    assert flip_left_right(np.zeros((50, 100, 3)), rows)[1].tolist() == [[2, 70, 20, 90, 40]]


def detections(boxes, labels, scores=None, **more):
    return Detections(
        np.array(boxes, float).reshape(-1, 4), np.array(labels, int), scores and np.array(scores), **more
    )


def test_average_precision_is_that_of_its_definition():
    truth = [detections([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 0]), detections([], [])]
    perfect = [detections([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 0], [0.9, 0.8]), detections([], [], None)]
    perfect[1] = Detections(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    assert average_precision(truth, perfect, ["a", "b"]).metrics["map"] == pytest.approx(1)
    # The best box is wrong, the next right, the second true box never found: precision 1/2 up to recall 1/2.
    false = [detections([[60, 60, 70, 70], [0, 0, 10, 10]], [0, 0], [0.9, 0.8]), perfect[1]]
    measured = average_precision(truth, false, ["a", "b"])
    assert measured.metrics["map_50"] == pytest.approx(0.5 * 51 / 101)
    assert np.isnan(measured.per_class["b"]) and measured.curves["a"][50] == pytest.approx(0.5)
    assert measured.per_class["a"] == pytest.approx(0.5 * 51 / 101)  # of every threshold: all boxes fit exactly
    # IoU 0.64: right up to a threshold of 0.6, three of ten.
    shifted = [detections([[0, 0, 10, 10], [20, 20, 36, 36]], [0, 0], [0.9, 0.8]), perfect[1]]
    assert average_precision(truth, shifted, ["a", "b"]).metrics["map"] == pytest.approx(
        0.3 + 0.7 * 51 / 101, abs=1e-6
    )
    crowd = [detections([[0, 0, 50, 50]], [0], crowd=np.array([True])), truth[0]]
    ignored = [detections([[5, 5, 15, 15]], [0], [0.9]), perfect[0]]
    assert average_precision(crowd, ignored, ["a"]).metrics["map"] == pytest.approx(1)


def test_evaluations_keep_boxes_and_no_images():
    alive, most = [], 0

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, number):
            nonlocal most
            image = np.full((24, 32, 3), number, dtype=np.uint8)
            alive.append(weakref.ref(image))
            most = max(most, sum(reference() is not None for reference in alive))
            return {"image": image, "rows": np.array([[0, *CORNERS]]), "crowd": np.zeros((0, 5)), "index": number}

    model = hf_effmodels.create_model("gold-yolo-n", **TINY["gold_yolo"], num_labels=2)
    processor = hf_effmodels.create_image_processor("gold-yolo-n", image_size=32)
    measured = measure(model, processor, Images(), batch_size=2, threshold=0.0)
    assert measured.metrics["samples"] == 12 and most <= 4  # a batch, and the one before it


class _Told:
    """A processor and a network of two classes that finds what is said here of each picture, by its brightness."""

    config, device = SimpleNamespace(id2label={0: "a", 1: "b"}, num_labels=2), torch.device("cpu")

    def __init__(self, found):
        self.found, self.seen = found, []

    def __call__(self, *given, images=(), pixel_values=None, **options):
        if pixel_values is None:
            pixels = torch.tensor([int(image[0, 0, 0]) for image in images])
            return {"pixel_values": pixels, "labels": [{"class_labels": None, "boxes": None}] * len(pixels)}
        self.seen.append((len(pixel_values), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return pixel_values

    def forward(self, pixel_values):
        raise NotImplementedError

    def post_process_object_detection(self, outputs, threshold, target_sizes):
        assert target_sizes.tolist() == [[24, 32]] * len(outputs)
        return [
            {name: torch.tensor(value) for name, value in self.found[number].items()} for number in outputs.tolist()
        ]


def _boxes(*rows):
    return {
        "boxes": [[*row[:4]] for row in rows] or torch.zeros(0, 4).tolist(),
        "labels": [int(row[4]) for row in rows], "scores": [row[5] for row in rows],
    }  # fmt: skip


@pytest.mark.parametrize("processes, dtype", [(1, None), (1, torch.bfloat16), (2, None)])
def test_a_detector_is_measured_by_every_picture_in_its_place(processes, dtype, monkeypatch):
    """Of three pictures with one object of class 0 each: found as class 1, not found at all, found."""
    found = [_boxes((*CORNERS, 1, 0.75)), _boxes(), _boxes((*CORNERS, 0, 0.5), (0, 0, 3, 3, 1, 0.25))]
    samples = [
        {
            "image": np.full((24, 32, 3), n, np.uint8),
            "rows": np.array([[0, *CORNERS]]),
            "crowd": np.zeros((0, 5)),
            "index": n,
        }
        for n in range(3)
    ]
    told = _Told(found)
    sent = []
    for number in reversed(range(processes)):  # what the processes send comes by process
        state = SimpleNamespace(process_index=number, num_processes=processes)
        monkeypatch.setattr(measuring, "PartialState", lambda state=state: state)
        monkeypatch.setattr(measuring, "gather_object", lambda own: sent.extend(own) or sent)
        measured = measure(told, told, samples, batch_size=2, threshold=0.0, dtype=dtype)
    assert measured.metrics["samples"] == 3
    assert measured.metrics["top_score"] == pytest.approx((0.75 + 0 + 0.5) / 3)
    assert [boxes.labels.tolist() for boxes in measured.found] == [[1], [], [0, 1]]
    assert [boxes.labels.tolist() for boxes in measured.truth] == [[0]] * 3
    # Rows are what was there: one found as the other class, one not found, one found.
    assert measured.confusion.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert {(on, kind if on else None) for _, on, kind in told.seen} == {(dtype is not None, dtype)}
    assert sum(count for count, *_ in told.seen) == 3


def test_the_confusion_matrix_counts_what_was_taken_for_what():
    truth = [detections([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 1])]
    found = [detections([[0, 0, 10, 9], [50, 50, 60, 60], [20, 20, 40, 40]], [1, 0, 1], [0.9, 0.8, 0.1])]
    assert confusion(truth, found, 2).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert confusion(truth, found, 2, threshold=0.05).tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_yolov6s_schedule_and_measure_are_the_defaults(tmp_path):
    """And that nothing but mirroring is done to pictures that nobody asks for."""
    args = DetectionArguments(output_dir=str(tmp_path))
    published = {"final_lr_factor": 0.01, "detection_warmup_epochs": 3.0, "least_warmup_steps": 1000}
    published |= {"warmup_bias_lr": 0.1, "momentum": 0.937, "warmup_momentum": 0.8, "distillation_temperature": 20.0}
    published |= {"class_distillation": 1.0, "box_distillation": 1.0, "feature_distillation": 0.0}
    published |= {"eval_threshold": 0.001, "eval_nms_threshold": 0.65, "metric_for_best_model": "map"}
    published |= {"detection_schedule": False, "ema_ramp": 0.0, "atss_epochs": 0, "load_best_model_at_end": True}
    assert {name: getattr(args, name) for name in published} == published
    alone = DetectionEvaluationArguments()
    assert (alone.eval_threshold, alone.eval_nms_threshold, alone.precision) == (0.001, 0.65, "float32")
    called = inspect.signature(measure).parameters
    assert (called["threshold"].default, called["nms_threshold"].default) == (0.001, 0.65)
    done = {f.name: getattr(DetectionAugmentationArguments(), f.name) for f in fields(DetectionAugmentationArguments)}
    assert {name: value for name, value in done.items() if value} == {"horizontal_flip": 0.5}


def test_settings_of_the_schedule_are_used():
    schedule = DetectionSchedule(10, 100, learning_rate=0.5, final_factor=0.2, warmup_epochs=2, least_warmup_steps=50)
    assert schedule.warmup_steps == 200 and schedule.factor(10) == pytest.approx(0.2)
    assert schedule.learning_rates(100)[0] == pytest.approx(0.5 * 0.5 * schedule.factor(1))
    assert schedule.learning_rates(350) == (0.5 * schedule.factor(2),) * 3
    assert schedule.momentum_at(100) == pytest.approx((0.8 + 0.937) / 2)
    assert DetectionSchedule(10, 100, warmup_epochs=0).learning_rates(0)[2] == 0.01
    assert DetectionSchedule(10, 100, batch_size=16).accumulation(2000) == 4


@pytest.mark.parametrize("batch, gathered", [(8, 8), (24, 3), (40, 2), (48, 1), (64, 1), (256, 1)])
def test_a_nominal_batch_is_gathered_in_whole_steps_more_and_more_of_them_in_the_warm_up(batch, gathered):
    """As YOLO does it: numbers between one step and 64 / batch, rounded; the decay follows what is gathered."""
    schedule = DetectionSchedule(10, 10, warmup_epochs=2.56, least_warmup_steps=5, batch_size=batch)
    assert schedule.warmup_steps == 26
    between = [max(1, int(np.interp(step, [0, 26], [1, 64 / batch]).round())) for step in range(27)]
    assert [schedule.accumulation(step) for step in range(27)] == between
    assert schedule.accumulation(27) == schedule.accumulation(99) == gathered
    done = schedule.updates(60)
    assert len(done) == 60 and all(done[:1])
    after = [step for step in range(40, 60) if done[step]]
    assert {later - step for step, later in zip(after, after[1:], strict=False)} == {gathered}
    assert scaled_weight_decay(0.5, batch) == pytest.approx(0.5 * batch * gathered / 64)
    assert scaled_weight_decay(0.5, batch, nominal_batch_size=2 * batch) == 0.5


def test_nearly_equal_scores_of_half_precision_do_not_diverge_below_zero():
    logits = torch.randn(2, 50, 80).half()
    assert class_score_distillation(logits, logits, 20.0).item() == 0
    assert class_score_distillation(logits, (logits + 1e-3).half(), 20.0).item() >= 0


GOLD = [
    *("--task", "object-detection", "--model", "gold-yolo-n", "--image_size", "64", "--dataset", "digits"),
    "--model_config",
    "{hidden_sizes: [4, 8, 8, 12, 16], depths: [1, 1, 1, 1], neck_hidden_sizes: [8, 4, 8, 16], neck_depth: 1, "
    "low_fusion_size: 8, low_fusion_depth: 1, num_attention_blocks: 1, head_type: HEAD}",
    *("--max_train_samples", "8", "--max_eval_samples", "2", "--per_device_train_batch_size", "4", "--max_steps", "2"),
    *("--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"),
    *("--optim", "sgd", "--learning_rate", "0.01", "--detection_schedule", "true", "--eval_pictures", "2"),
]


def gold(head: str, *more: str) -> list[str]:
    return [*(word.replace("HEAD", head) for word in GOLD), *more]


def test_both_steps_of_the_papers_training_run(tmp_path):
    first = main(gold("anchor_aided", "--atss_epochs", "1", "--output_dir", str(tmp_path / "first")))
    assert {"eval_map", "eval_map_50", "eval_top_score"} <= first.keys()
    for name in ("predictions.png", "precision_recall.png", "confusion_matrix.png", "model.safetensors"):
        assert (tmp_path / "first" / name).stat().st_size
    student = gold("distillation", "--teacher", str(tmp_path / "first"))
    losses = []
    for weight in ("0", "10"):
        output = tmp_path / weight
        main([*student, "--feature_distillation", weight, "--output_dir", str(output)])
        log = json.loads((output / "trainer_state.json").read_text())["log_history"]
        losses.append(log[0]["loss"])
        # Step 0 of the warm-up: norms and weights stand still, biases start at their own rate.
        assert log[0]["learning_rate"] == 0
    assert losses[1] > losses[0]


def test_two_processes_of_gold_yolo_follow_one(tmp_path):
    """Batch norms and target scores are those of both; the second step has one sample, and a process without any."""
    runs = {"two": ("2", run_in_two), "one": ("4", lambda function, arguments: function(arguments))}
    for name, (batch, run) in runs.items():
        sizes = [
            "--per_device_train_batch_size",
            batch,
            "--max_train_samples",
            "5",
            "--max_steps",
            "3",
            "--image_size",
            "96",
        ]
        more = ["--sync_batch_norm", "true", "--least_warmup_steps", "1", "--detection_warmup_epochs", "0"]
        run(main, gold("plain", *sizes, *more, "--output_dir", str(tmp_path / name)))
    two, one = (history(tmp_path / name, "loss", "grad_norm") for name in runs)
    assert len(one) == 3 and (one > 0).all()
    np.testing.assert_allclose(two, one, rtol=1e-4)
    expected = weights(tmp_path / "one")
    assert all(torch.allclose(expected[name], value, atol=1e-5) for name, value in weights(tmp_path / "two").items())


def test_scales_of_a_stock_detector_start_at_one_and_zeros_by_design_stay():
    """transformers draws RT-DETR's from N(0, 0.01); the attention of Gold-YOLO's neck starts as nothing."""
    sizes = {"hidden_sizes": [4, 8, 8, 12, 16], "depths": [1, 1, 1, 1], "neck_hidden_sizes": [8, 4, 8, 16]}
    more = {"neck_depth": 1, "low_fusion_size": 8, "low_fusion_depth": 1, "num_attention_blocks": 1}
    backbone = {**sizes, **more, "out_features": ["p3", "n4", "n5"]}
    widths = {"encoder_in_channels": [4, 8, 16], "encoder_hidden_dim": 16, "d_model": 16, "decoder_layers": 1}
    args = DetectorArguments(
        detector="rt_detr",
        backbone="gold-yolo-n",
        backbone_config=backbone,
        model_config={**widths, "decoder_in_channels": [16] * 3, "freeze_backbone_batch_norms": False},
    )
    model, _ = load_detector(args, ["a", "b"])
    scales = {name: m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    zeros = [name for name, scale in scales.items() if (scale == 0).all()]
    assert len(zeros) == 1 and "attention.projection" in zeros[0]
    assert sum("encoder" in name for name in scales) > 20
    assert all((scale == 1).all() for name, scale in scales.items() if name not in zeros)


DETR = (
    "d_model: 16, encoder_layers: 1, decoder_layers: 1, encoder_ffn_dim: 16, "
    "decoder_ffn_dim: 16, encoder_attention_heads: 2, decoder_attention_heads: 2, num_queries: 6"
)
RT_DETR = (
    "encoder_in_channels: [12, 20, 56], encoder_hidden_dim: 16, d_model: 16, decoder_layers: 2, encoder_ffn_dim: 16, "
    "decoder_ffn_dim: 16, encoder_attention_heads: 2, decoder_attention_heads: 2, num_queries: 6, "
    "decoder_in_channels: [16, 16, 16], num_denoising: 4, freeze_backbone_batch_norms: false"
)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "detector, config, stages",
    [
        ("rt_detr", RT_DETR, "stage2, stage3, stage4"),
        ("d_fine", RT_DETR + ", decoder_n_points: [2, 2, 2]", "stage2, stage3, stage4"),
        ("detr", DETR, "stage4"),
        ("conditional_detr", DETR, "stage4"),
    ],
)
def test_detectors_that_are_not_ours_learn_over_a_backbone_that_is(detector, config, stages, tmp_path):
    """Five steps on two canvases: the loss falls, and what was trained is measured again to the same numbers."""
    data = ["--task", "object-detection", "--dataset", "digits", "--max_eval_samples", "2", "--eval_threshold", "0"]
    words = ["--detector", detector, "--model_config", f"{{{config}}}", "--backbone", "ghostnetv3-0.5x"]
    words += ["--backbone_config", f"{{num_conv_branches: 1, out_features: [{stages}]}}", "--image_size", "64"]
    steps = [
        "--max_train_samples",
        "2",
        "--per_device_train_batch_size",
        "2",
        "--max_steps",
        "5",
        "--logging_steps",
        "1",
    ]
    steps += ["--learning_rate", "0.002", "--lr_scheduler_type", "constant", "--optim", "adamw_torch"]
    rest = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    measured = main([*data, *words, *steps, *rest, "--output_dir", str(tmp_path / "run")])
    losses = history(tmp_path / "run", "loss")
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    again = evaluate([*data, "--model", str(tmp_path / "run"), "--output", str(tmp_path / "results.json")])
    assert again["top_score"] == pytest.approx(measured["eval_top_score"], abs=1e-5)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--backbone", "ghostnetv3-1.0x"], "--backbone goes with --detector"),
        (["--backbone_config", "{out_features: [stage4]}"], "--backbone goes with --detector"),
        (["--backbone_config", "[1]"], r"--backbone_config: "),
        (["--detector", "yolos"], "--model, --detector: one of them"),
        (["--teacher", "TEACHER"], "--teacher: its num_labels"),
        (["--model", "ghostnetv3-1.0x"], "--model: ghostnetv3-1.0x is no detector, presets that are: .*gold-yolo-n"),
        (["--horizontal_flip", "1.5"], "--horizontal_flip: got 1.5"),
        (["--layer_decay", "0.9"], "--detection_schedule.*--layer_decay"),
        (["--teacher", "TURNED"], r"--teacher: its classes \(1, 0, 2.*\) are not the student's \(0, 1, 2"),
    ],
)
def test_wrong_arguments_end_before_anything_is_written(more, message, tmp_path):
    if "--teacher" in more:
        fields = {"hidden_sizes": [4, 8, 8, 12, 16], "depths": [1] * 4, "neck_hidden_sizes": [8, 4, 8, 16]}
        labels = {"num_labels": 3}
        if "TURNED" in more:
            labels = {"id2label": {number: str({0: 1, 1: 0}.get(number, number)) for number in range(10)}}
        model = hf_effmodels.create_model("gold-yolo-n", **fields, **labels)
        model.save_pretrained(tmp_path / "teacher")
        more = ["--teacher", str(tmp_path / "teacher")]
    with pytest.raises(ValueError, match=message):
        main(gold("plain", *more, "--output_dir", str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "kind, processor",
    [("rt_detr", "RTDetr"), ("rt_detr_v2", "RTDetr"), ("d_fine", "RTDetr"), ("detr", "Detr"), ("yolos", "Yolos")],
)
@pytest.mark.parametrize("side", [None, 64])
def test_a_detector_that_is_built_anew_has_its_image_processor_in_the_size_asked_for(
    kind, processor, side, monkeypatch
):
    monkeypatch.setattr(models, "build_anew", lambda *_: "a detector")
    found, made = models._from_type(DetectorArguments(detector=kind, image_size=side), {})
    assert found == "a detector" and type(made).__name__.startswith(f"{processor}ImageProcessor")
    assert side is None or dict(made.size) == {"height": 64, "width": 64}


def test_a_preset_of_a_detector_and_its_image_processor_have_one_size():
    sizes = {name: value for name, value in TINY["gold_yolo"].items() if name != "image_size"}
    args = DetectorArguments(model="gold-yolo-n", image_size=96, model_config=sizes)
    model, processor = load_detector(args, ["a", "b"])
    assert models.side_of(processor) == 96 and model.config.image_size == 96


@pytest.mark.parametrize(
    "size, side",
    [({"height": 96, "width": 64}, 96), ({"shortest_edge": 80, "longest_edge": 99}, 80), ({"longest_edge": 99}, 640)],
)
def test_training_pictures_are_as_large_as_the_network_takes_them(size, side):
    assert models.side_of(SimpleNamespace(size=size)) == side


def test_what_does_not_go_with_a_detector_is_named(tmp_path):
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=[32, 32],
        patch_size=16, num_detection_tokens=3, num_labels=10,
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(tmp_path / "yolos")
    YolosImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "yolos")
    folded = hf_effmodels.create_model("gold-yolo-n", **TINY["gold_yolo"], num_labels=10)
    folded.reparameterize()
    folded.save_pretrained(tmp_path / "folded")
    hf_effmodels.create_image_processor("gold-yolo-n", image_size=32).save_pretrained(tmp_path / "folded")
    words = [
        "--task",
        "object-detection",
        "--dataset",
        "digits",
        "--max_train_samples",
        "2",
        "--max_eval_samples",
        "2",
    ]
    for more, message in (
        (["yolos", "--atss_epochs", "1"], "--atss_epochs goes with Gold-YOLO, not with YolosForObjectDetection"),
        (["folded"], "--model: .*folded is folded for deployment and cannot be trained any more"),
        (["yolos", "--teacher", str(tmp_path / "folded")], "--model: distillation is between Gold-YOLOs"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*words, "--model", str(tmp_path / more[0]), *more[1:], "--output_dir", str(tmp_path / "run")])
    with pytest.raises(ValueError, match="--reparameterize: YolosForObjectDetection has nothing to fold"):
        evaluate(
            [*words[:4], "--model", str(tmp_path / "yolos"), "--reparameterize", "true", "--max_eval_samples", "1"]
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "beside, names",
    [
        (
            "detection_schedule",
            ["final_lr_factor", "detection_warmup_epochs", "least_warmup_steps", "warmup_bias_lr", "momentum"]
            + ["warmup_momentum"],
        ),
        ("ema_decay", ["ema_ramp"]),
        ("teacher", ["distillation_temperature", "class_distillation", "box_distillation", "feature_distillation"]),
        ("mosaic", ["mixup", "close_mosaic_epochs"]),
    ],
)
def test_an_option_of_which_nothing_comes_without_another_one_is_refused(beside, names, tmp_path):
    """SGD's momentum, for one, is 0 without the schedule, whatever `--momentum` says."""
    words = ["--task", "object-detection", "--model", "gold-yolo-n", "--dataset", "digits"]
    for name in names:
        value = {"close_mosaic_epochs": "1", "least_warmup_steps": "7"}.get(name, "0.5")
        with pytest.raises(ValueError, match=f"--{name}: got {value}, which goes with --{beside}"):
            main([*words, f"--{name}", value, "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("task", ["object-detection", "semantic-segmentation"])
def test_pictures_of_an_evaluation_lie_beside_its_results(task):
    words = ["--task", task, "--model", "some/model", "--dataset", "digits", "--eval_pictures", "3"]
    with pytest.raises(ValueError, match="--eval_pictures: got 3, which goes with --output"):
        evaluate(words)


@pytest.mark.parametrize(
    "task, model",
    [("object-detection", ["--detector", "rt_detr"]), ("semantic-segmentation", ["--segmenter", "upernet"])],
)
def test_what_is_said_of_the_backbone_is_to_blame_for_what_does_not_work_of_it(task, model, tmp_path):
    ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4).save_pretrained(tmp_path / "backbone")
    words = ["--task", task, *model, "--backbone", str(tmp_path / "backbone"), "--dataset", "digits"]
    words += ["--backbone_config", "{hidden_act: nothing}", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(
        ValueError, match=r"^--backbone_config: no model works with \{'hidden_act': 'nothing'\}"
    ) as error:
        main(words)
    assert "--model_config" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_field_that_a_new_detector_does_not_have_is_refused(tmp_path):
    """A configuration takes whatever it is given: it would have been trained without a word."""
    arguments = ["--task", "object-detection", "--detector", "yolos", "--model_config", "{hiden_size: 8}"]
    with pytest.raises(ValueError, match="--model_config: YolosConfig has no field 'hiden_size'"):
        main([*arguments, "--dataset", "digits", "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
