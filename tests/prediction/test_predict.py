"""`hf-effmodels predict` says of files and texts what the model computes for them, for each of its tasks."""

import colorsys
import copy
import csv
import io
import itertools
import json
import re
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlignConfig,
    AlignModel,
    AutoConfig,
    AutoModelForSequenceClassification,
    BatchFeature,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
    pipeline,
)

import hf_effmodels
from hf_effmodels import LightClipModel, edge_two_towers
from hf_effmodels.cli import main
from hf_effmodels.edge_two_towers import FACTS
from hf_effmodels.images import read_image
from hf_effmodels.prediction.drawing import color, draw_boxes, draw_masks
from hf_effmodels.prediction.forms import place_of, save
from hf_effmodels.prediction.inputs import Input, Numbered, find_inputs, with_stems_of_their_own
from hf_effmodels.prediction.predictor import (
    MODULES,
    USED,
    Options,
    Predictor,
    Source,
    check_used,
    load_network,
    load_predictor,
)
from hf_effmodels.prediction.processes import Processes
from hf_effmodels.prediction.run import predict as run_prediction
from hf_effmodels.prediction.talk import as_prompt, talk
from hf_effmodels.prediction.tasks import classes, named
from hf_effmodels.prediction.tasks.classes import classes_of
from hf_effmodels.prediction.tasks.continuation import continuation
from hf_effmodels.prediction.tasks.masks import _said as masks_said
from hf_effmodels.registry import ARCHITECTURES

from ..hub.test_vision_language import parts  # noqa: F401
from ..modeling.test_light_clip import TEXT, VIT, build
from ..modeling.test_light_clip import processor as clip_processor
from ..modeling.tiny import tiny_config
from ..pipelines.sam_diffsr.tiny import tiny_pipeline
from ..training.tasks.image_text_to_text.conftest import bases  # noqa: F401
from .conftest import NAMES


def as_json(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("form", ["model", "onnx"])
def test_pictures_of_a_folder_get_their_classes_the_likeliest_first(
    form, classifier, photos, predict, expected, request
):
    folder = classifier[0] / "model" if form == "model" else request.getfixturevalue("program")
    said = as_json(predict(folder, photos, "--json", "--top-k", 2))
    assert [answer["input"] for answer in said] == [str(photos / "a.png"), str(photos / "scans" / "b.png")]
    for answer, scores in zip(said, expected, strict=True):
        best = np.argsort(-scores)[:2]
        assert [found["label"] for found in answer["classes"]] == [NAMES[number] for number in best]
        np.testing.assert_allclose([found["score"] for found in answer["classes"]], scores[best], atol=1e-5)


def test_people_get_a_line_and_tables_a_row_for_each_class(classifier, photos, predict, expected, monkeypatch):
    folder, (scores, _) = classifier[0] / "model", expected
    best = int(scores.argmax())
    line = predict(folder, photos / "a.png")
    assert line.startswith(f"{photos / 'a.png'}: {NAMES[best]} {100 * scores[best]:.1f} %  ") and line.count("%") == 3
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'a.png'}\n\n{photos / 'scans' / 'b.png'}\n"))
    table = list(csv.DictReader(io.StringIO(predict(folder, "-", "--csv", "--batch-size", 1))))
    assert [row["rank"] for row in table] == ["1", "2", "3"] * 2
    assert {row["label"] for row in table} == {*NAMES.values()}
    for group in (table[:3], table[3:]):
        assert sum(float(row["score"]) for row in group) == pytest.approx(1)


def test_a_broken_file_is_named_and_the_others_are_predicted(classifier, photos, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    argv = ["predict", classifier[0] / "model", tmp_path / "broken.jpg", photos / "a.png", "--json"]
    assert main([*map(str, argv)]) == 1
    out, err = capsys.readouterr()
    assert [answer["input"] for answer in as_json(out)] == [str(photos / "a.png")]
    assert f"{tmp_path / 'broken.jpg'}: the file is not an image PIL can read" in err


def test_what_is_wrong_is_said_before_anything_is_predicted(classifier, photos, tmp_path, capsys):
    model = classifier[0] / "model"
    (tmp_path / "empty").mkdir()
    for argv, message in [
        (("./nowhere", photos), "MODEL: there is no folder or file './nowhere'"),
        ((model, photos, tmp_path / "x.png"), f"INPUT: there is no file or folder '{tmp_path / 'x.png'}'"),
        ((model, tmp_path / "empty"), f"INPUT: there are no images in {tmp_path / 'empty'}"),
        ((model, photos, "--top-k", 0), "--top-k: got 0, accepted are whole numbers from 1"),
        ((model, photos, "--threshold", 2), "--threshold: got 2.0, accepted are numbers from 0 to 1"),
        ((model, photos, "--device", "tpu9"), "--device: got 'tpu9'"),
        ((model, photos, "--task", "x"), "--task: got 'x', accepted are image-classification, "),
        ((model, photos, "--task", "object-detection"), "is for image-classification, not for object-detection"),
        ((model, photos, "--save", "out"), "--save: got 'out', but image-classification has nothing to draw"),
        ((model, photos, "--threshold", 0.3), "--threshold: got 0.3, which image-classification has no use for"),
        ((model, photos, "--labels", "a", "b"), "--labels: got a b, which image-classification has no use for"),
        ((model, photos, "--output", "/proc/x.csv"), "--output: /proc/x.csv cannot be written"),
        ((model,), "the following arguments are required: INPUT"),
        ((model, photos, "--json", "--csv"), "not allowed with argument --json"),
        ((model, ""), "INPUT: one is empty"),
        ((model, " "), "INPUT: one is empty"),
        ((model, photos, "--points", 0), "--points: got 0, accepted are whole numbers from 1"),
        ((model, photos, "--batch-size", 0), "--batch-size: got 0, accepted are whole numbers from 1"),
        ((model, photos, "--steps", 0), "--steps: got 0, accepted are whole numbers from 1"),
        ((model, photos, "--max-new-tokens", 0), "--max-new-tokens: got 0, accepted are whole numbers from 1"),
        ((model, photos, "--threshold", -0.1), "--threshold: got -0.1, accepted are numbers from 0 to 1"),
        ((model, photos, "--output", photos / "a.png"), f"--output: {photos / 'a.png'} is there already"),
        ((model, photos, "--device", "mtia"), "--device: got 'mtia': "),
        ((model, photos, "--revision", "main"), "--revision: got 'main'"),
    ]:
        assert main(["predict", *map(str, argv)]) == 2, argv
        out, err = capsys.readouterr()
        assert message in err and not out, (argv, err)


def test_the_device_is_the_one_that_is_named_or_that_of_the_process(classifier, photos, monkeypatch):
    asked = []

    def load(source, task, options, device):
        asked.append(device)
        raise ValueError("it is enough")

    monkeypatch.setattr("hf_effmodels.prediction.command.load_for_task", load)
    argv = ["predict", str(classifier[0] / "model"), str(photos)]
    for own in (None, "cuda:1"):
        found = Processes(device=own)
        monkeypatch.setattr("hf_effmodels.prediction.processes.find_processes", lambda device, found=found: found)
        assert main(argv) == main([*argv, "--device", "cpu"]) == 2
    assert asked == [None, "cpu", "cuda:1", "cpu"]


def test_options_are_those_of_the_function_unless_the_command_says_otherwise(classifier, photos, monkeypatch):
    """Each option of the command reaches the predictor, and what is not said is what `Options` say."""
    loaded, model = [], str(classifier[0] / "model")

    def load(source, task, options, device):
        loaded.append((source, task, options))
        raise ValueError("it is enough")

    monkeypatch.setattr("hf_effmodels.prediction.command.load_for_task", load)
    monkeypatch.setattr("hf_effmodels.prediction.command.check_used", lambda *_: None)
    told = {"top_k": 3, "threshold": 0.25, "prompt": "why", "max_new_tokens": 7, "steps": 9, "points": 4}
    told |= {"template": "{} here"}
    words = [word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    more = [*words, "--trust-remote-code", "--token", "mine", "--task", "image-classification", "--labels", "a", "b"]
    assert main(["predict", model, str(photos)]) == main(["predict", model, str(photos), *more]) == 2
    (plain, task, options), (source, _, changed) = loaded
    assert (plain, task, asdict(options)) == (
        Source(model),
        "image-classification",
        asdict(Options()) | {"labels": ()},
    )
    assert asdict(changed) == told | {"labels": ["a", "b"]} and told.keys() | {"labels"} == asdict(options).keys()
    assert source == Source(model, token="mine", trust_remote_code=True) and "mine" not in repr(source)
    assert source.options() == {"revision": None, "token": "mine", "trust_remote_code": True}


def test_talking_is_as_long_and_as_random_as_it_is_told(language, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("hf_effmodels.prediction.talk.talk", lambda *arguments: asked.append(arguments))
    folder = str(language[0])
    assert main(["chat", folder]) == 0
    assert (
        main(["chat", folder, "--device", "cpu", "--max-new-tokens", "3", "--temperature", "0.5", "--seed", "8"]) == 0
    )
    assert asked == [(Source(folder), None, 128, 0.0, 0), (Source(folder), "cpu", 3, 0.5, 8)]
    assert main(["chat", folder, "--max-new-tokens", "1", "--temperature", "0"]) == 0 and asked[2][2:4] == (1, 0.0)
    for wrong in (("--max-new-tokens", "0"), ("--temperature", "inf")):
        assert main(["chat", folder, *wrong]) == 2
        assert f"{wrong[0]}: got " in capsys.readouterr().err


def test_models_that_cannot_do_it_are_named_by_the_function_too(classifier):
    folder = str(classifier[0] / "model")
    for source, options, message in (
        (folder, {"task": "x"}, "task: got 'x', accepted are image-classification, "),
        (folder, {"options": Options(steps=3)}, "steps: got 3, which image-classification has no use for"),
        (Source(folder, revision="main"), {}, "--revision: got 'main'"),
        (Source("ghostnetv3-1.0x", revision="main"), {}, "revision: got 'main', but ghostnetv3-1.0x is a preset"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            load_predictor(source, **options)


@pytest.mark.parametrize(
    ("task", "taken"),
    [
        ("image-classification", {"top_k"}), ("object-detection", {"threshold"}), ("image-segmentation", set()),
        ("mask-generation", {"points", "top_k"}), ("image-text-to-text", {"prompt", "max_new_tokens"}),
        ("zero-shot-image-classification", {"labels", "template", "top_k"}), ("super-resolution", {"steps"}),
        ("text-generation", {"max_new_tokens"}), ("text-classification", {"top_k"}),
    ],
)  # fmt: skip
def test_what_a_task_has_no_use_for_is_refused(task, taken):
    said = {"top_k": 3, "threshold": 0.25, "prompt": "What?", "max_new_tokens": 7, "steps": 4, "points": 5}
    said |= {"labels": ("a", "b"), "template": "a {}"}
    assert {field.name for field in fields(Options)} == {*said}
    for name, value in said.items():
        if name in taken:
            check_used(task, Options(**{name: value}))
        else:
            with pytest.raises(ValueError, match=f"{name}: got .*, which {task} has no use for"):
                check_used(task, Options(**{name: value}))


def test_one_broken_file_is_no_lack_of_files(classifier, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["predict", str(classifier[0] / "model"), str(tmp_path / "broken.jpg")]) == 1
    out, err = capsys.readouterr()
    assert not out and "broken.jpg: the file is not an image PIL can read" in err and "nothing to predict" not in err


def test_somebodys_own_picture_is_seen_before_anything_is_predicted(photos, tmp_path):
    (tmp_path / "b.png").write_bytes(b"mine")
    predictor = Predictor("object-detection", "image", lambda items: pytest.fail("too late"), str, list)
    arguments = SimpleNamespace(inputs=[str(photos)], save=tmp_path, output=None)
    with pytest.raises(FileExistsError, match="--save: .*b.png is there already, and not of an earlier call"):
        run_prediction(predictor, Options(), None, arguments, Processes())
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


def test_nothing_to_predict_on_is_said(classifier, tmp_path, monkeypatch, capsys, language):
    predictor = Predictor("image-classification", "image", lambda items: [{} for _ in items], str, list)
    monkeypatch.setattr("hf_effmodels.prediction.command.load_for_task", lambda *_: predictor)
    for more in ((), ("--output", str(tmp_path / "found.txt"))):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
        assert main(["predict", str(classifier[0] / "model"), "-", *more]) == 2
        assert "INPUT: there is nothing to predict on" in capsys.readouterr().err
    assert main(["predict", str(language[0]), str(tmp_path)]) == 2
    assert f"INPUT: {tmp_path} is a folder; accepted are texts, and files" in capsys.readouterr().err


def test_inputs_are_found_by_their_names_and_lines(photos, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\n two \n"))
    (tmp_path / "lines.txt").write_text("three\n")
    found = [*find_inputs(["-", str(tmp_path / "lines.txt"), "four"], "text")]
    lines = f"{tmp_path / 'lines.txt'}:1"
    names = ["standard input:1", "standard input:3", lines, "four"]
    assert [(item.name, item.value) for item in found] == [*zip(names, ["one", " two ", "three", "four"], strict=True)]
    pictures = [*find_inputs([str(photos), str(photos / "notes.txt")], "image")]
    assert [item.stem for item in pictures] == ["a", "b", "notes"], "of a folder what has a picture's ending"
    named = with_stems_of_their_own(Input("", None, stem) for stem in ("a", "a", "a-2", "b", "a"))
    assert [item.stem for item in named] == ["a", "a-2", "a-2-2", "b", "a-3"]


@pytest.mark.parametrize("text", ["word " * 60, "a\0b", "x" * 5000], ids=["long", "null", "longer"])
def test_what_no_file_can_be_called_is_a_text_and_no_picture(text):
    assert [*find_inputs([text], "text")] == [Input(text, text)]
    with pytest.raises(OSError, match="^INPUT: there is no file or folder "):
        [*find_inputs([text], "image")]


def test_pictures_of_rows_are_written_by_their_numbers_and_nothing_of_others_is_lost(tmp_path, capsys):
    asked = []

    def answer(images):
        asked.extend(images)
        return [{"picture": None, "size": image.size} for image in images]

    rows = Numbered(3, lambda n: Input(f"test:{n}", Image.new("RGB", (n + 1, 2)), f"test-{n}"), "test-{}".format, dict)
    predictor = Predictor("x", "image", answer, str, list, lambda image, said: Image.new("L", said["size"]))
    how = SimpleNamespace(save=str(tmp_path), output=None, json=True, csv=False, batch_size=2)
    (tmp_path / "test-2.png").write_text("mine")
    with pytest.raises(FileExistsError, match="--save: .*test-2.png is there already, and not of an earlier call"):
        run_prediction(predictor, Options(), rows, how, Processes())
    assert not asked and [file.name for file in tmp_path.iterdir()] == ["test-2.png"]
    (tmp_path / "test-2.png").unlink()
    assert run_prediction(predictor, Options(), rows, how, Processes()) == 0
    assert as_json(capsys.readouterr().out) == [
        {"input": f"test:{n}", "size": [n + 1, 2], "saved": str(tmp_path / f"test-{n}.png")} for n in range(3)
    ]
    assert [Image.open(tmp_path / f"test-{n}.png").size for n in range(3)] == [(1, 2), (2, 2), (3, 2)]


def test_an_answer_is_a_line_whatever_the_file_is_called(classifier, photos, tmp_path, capsys):
    file = tmp_path / "new\nline é\x1b[31m.png"
    shutil.copy(photos / "a.png", file)
    assert main(["predict", str(classifier[0] / "model"), str(file)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "new\\nline é\\x1b[31m.png: " in line


def test_boxes_are_in_pixels_and_drawn(predict, photos, tmp_path, capsys, monkeypatch):
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
        patch_size=16, num_detection_tokens=4, num_labels=2, id2label={0: "cat", 1: "dog"},
        use_mid_position_embeddings=False,
    )  # fmt: skip
    model = YolosForObjectDetection(config).eval()
    processor = YolosImageProcessorPil(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = ("--threshold", 0.2, "--json", "--save", tmp_path / "drawn")
    (said,) = as_json(predict(tmp_path / "model", photos / "a.png", *options))
    with torch.no_grad():
        outputs = model(**processor(Image.open(photos / "a.png"), return_tensors="pt"))
    scores, labels = outputs.logits[0].softmax(-1)[:, :2].max(-1)
    kept = [n for n in scores.argsort(descending=True).tolist() if scores[n] > 0.2]
    assert len(said["boxes"]) == len(kept) > 0
    for box, number in zip(said["boxes"], kept, strict=True):
        x, y, width, height = outputs.pred_boxes[0, number].tolist()
        corners = [(x - width / 2) * 60, (y - height / 2) * 40, (x + width / 2) * 60, (y + height / 2) * 40]
        np.testing.assert_allclose([box[side] for side in ("xmin", "ymin", "xmax", "ymax")], corners, atol=1e-3)
        assert box["label"] == config.id2label[int(labels[number])]
    (every,) = as_json(predict(tmp_path / "model", photos / "a.png", "--threshold", 0, "--json"))
    assert len(every["boxes"]) == config.num_detection_tokens
    assert predict(tmp_path / "model", photos / "a.png", "--threshold", 1) == f"{photos / 'a.png'}: nothing\n"
    drawn = np.asarray(Image.open(said["saved"]))
    # Once more over its own, but not over a picture that was there, such as an input.
    again = as_json(predict(tmp_path / "model", photos / "a.png", *options))[0]
    assert again == said
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("a.jpg", "a.png"):
        Image.open(photos / "a.png").save(inputs / name)
    before = {file: file.read_bytes() for file in inputs.iterdir()}
    for argv in ((inputs, "--save", inputs), (tmp_path / "drawn", "--save", tmp_path / "drawn")):
        assert main(["predict", str(tmp_path / "model"), *map(str, argv)]) == 2
        out, err = capsys.readouterr()
        assert f"--save: {argv[-1] / 'a.png'} is there already" in err and not out
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'a.png'}\n"))
    assert main(["predict", str(tmp_path / "model"), "-", "--save", str(inputs)]) == 2
    assert {file: file.read_bytes() for file in inputs.iterdir()} == before
    assert drawn.shape == (40, 60, 3) and (drawn != np.asarray(Image.open(photos / "a.png"))).any()


def test_a_box_lies_where_it_is_and_the_likeliest_on_top():
    boxes = [(4, 30, 50, 50), (4, 30, 50, 50)]
    drawn = np.asarray(draw_boxes(Image.new("RGB", (100, 100)), boxes, ["b", "a"], [0.9, 0.3]))
    rows, columns = np.nonzero(drawn.any(2))
    assert (columns.min(), rows.min()) == (4, 30) and rows.max() == 50 and columns.max() >= 50
    alone = np.asarray(draw_boxes(Image.new("RGB", (100, 100)), boxes[:1], ["b"], [0.9]))
    other = np.asarray(draw_boxes(Image.new("RGB", (100, 100)), boxes[:1], ["a"], [0.3]))
    assert (drawn[50, 20] != other[50, 20]).any() and (alone[47, 20] == 0).all()


def test_masks_colour_what_they_cover_the_small_over_the_large():
    large, small = np.zeros((2, 8, 8), dtype=bool)
    large[:4], small[0, 0] = True, True
    drawn = np.asarray(draw_masks(Image.new("RGB", (8, 8), (90, 90, 90)), [small, large]))
    assert (drawn[4:] == 90).all() and (drawn[0, 1] == drawn[3, 7]).all()
    # Half of what was there and half of the colour; over the large one its own half again.
    below = 0.5 * 90 + 0.5 * np.array(color(1))
    np.testing.assert_allclose(drawn[0, 1], below, atol=0.51)
    np.testing.assert_allclose(drawn[0, 0], 0.5 * below + 0.5 * np.array(color(0)), atol=0.51)


def test_pixels_are_told_by_their_classes(predict, photos, tmp_path):
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 1], mlp_ratios=[1, 1], decoder_hidden_size=8,
        id2label={0: "sky", 1: "sea", 2: "sand"}, label2id={"sky": 0, "sea": 1, "sand": 2},
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = SegformerImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "model")
    (said,) = as_json(predict(tmp_path / "model", photos / "a.png", "--json", "--save", tmp_path))
    with torch.no_grad():
        logits = model(**processor(Image.open(photos / "a.png"), return_tensors="pt")).logits
    classes = torch.nn.functional.interpolate(logits, (40, 60), mode="bilinear").argmax(1)
    shares = {config.id2label[n]: float((classes == n).float().mean()) for n in range(3) if (classes == n).any()}
    assert {s["label"]: s["share"] for s in said["segments"]} == pytest.approx(shares)
    assert Image.open(said["saved"]).size == (60, 40)
    ranked = sorted(shares.items(), key=lambda pair: -pair[1])
    told = load_predictor(str(tmp_path / "model")).line(said)
    assert told == "  ".join(f"{label} {100 * share:.1f} %" for label, share in ranked)


def test_everything_in_a_picture_is_masked(predict, photos, tmp_path):
    architecture = ARCHITECTURES["tinysam"]
    torch.manual_seed(2)
    model = architecture.model_class("AutoModelForMaskGeneration")(tiny_config(architecture)).eval()
    with torch.no_grad():  # it is sure of its masks
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(2)
        for network in model.mask_decoder.output_hypernetworks_mlps:
            for weight in network.parameters():
                weight.mul_(10 if weight.ndim > 1 else 1)
            network.proj_out.weight.mul_(1e3)
    model.save_pretrained(tmp_path / "model")
    from transformers import SamProcessor

    processor = hf_effmodels.create_image_processor("tinysam", image_size=64)
    SamProcessor(processor).save_pretrained(tmp_path / "model")
    (said,) = as_json(predict(tmp_path / "model", photos / "a.png", "--json", "--points", 2, "--save", tmp_path))
    segment = pipeline("hierarchical-mask-generation", model=model, image_processor=processor)
    found = [segment(Image.open(photos / "a.png"), points_per_crop=points)["masks"] for points in (2, 16)]
    areas = [[int(mask.sum()) for mask in masks] for masks in found]
    assert [mask["area"] for mask in said["masks"]] == areas[0] != areas[1] and areas[0]
    predictor = load_predictor(str(tmp_path / "model"), options=Options(top_k=1))
    best = said["masks"][0]
    assert predictor.line(said) == f"{len(said['masks'])} masks  {best['score']:.2f} ({best['area']} px)"
    for mask in said["masks"]:
        assert 0 < mask["area"] <= (mask["xmax"] - mask["xmin"]) * (mask["ymax"] - mask["ymin"]) <= 2400
    assert Image.open(said["saved"]).size == (60, 40)


def test_images_are_enlarged_and_files_of_one_name_do_not_replace_each_other(predict, photos, tmp_path, capsys):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model")
    for written in ([], ["--output", str(tmp_path / "table.json")]):
        assert main(["predict", str(tmp_path / "model"), str(photos / "a.png"), *written]) == 2
        assert "--save: where to write the enlarged images" in capsys.readouterr().err
    options = ("--steps", 2, "--json", "--save", tmp_path / "large")
    said = as_json(predict(tmp_path / "model", photos / "a.png", photos / "a.png", *options))
    assert [answer["saved"] for answer in said] == [str(tmp_path / "large" / name) for name in ("a.png", "a-2.png")]
    first, second = (np.asarray(Image.open(answer["saved"])) for answer in said)
    assert first.shape == (160, 240, 3) and (first == second).all()
    steps = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    np.testing.assert_allclose(
        first.astype(int), np.asarray(pipe(Image.open(photos / "a.png"), **steps).images[0]), atol=1
    )
    assert (said[0]["width"], said[0]["height"]) == (240, 160)
    predictor = load_predictor(str(tmp_path / "model"))
    assert predictor.line(said[0]) == "240 x 160 pixels"
    assert predictor.rows(said[0]) == [{"width": 240, "height": 160}]


def greedy(model, tokenizer, text, count):
    ids = tokenizer(text, return_tensors="pt").input_ids
    start = ids.shape[1]
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_language_models_go_on_with_texts_and_with_each_line_of_a_file(predict, language, tmp_path):
    folder, model, tokenizer = language
    (tmp_path / "lines.txt").write_text("The cat\n\nthe dog\n")
    said = as_json(predict(folder, "on the", tmp_path / "lines.txt", "--json", "--max-new-tokens", 5))
    assert [answer["input"] for answer in said] == ["on the", *(f"{tmp_path / 'lines.txt'}:{n}" for n in (1, 3))]
    assert [answer["text"] for answer in said] == [
        greedy(model, tokenizer, text, 5) for text in ("on the", "The cat", "the dog")
    ]


@pytest.mark.parametrize("fills_up", [False, True])
def test_texts_get_their_classes_one_at_a_time_where_nothing_fills_up(predict, language, tmp_path, fills_up):
    folder, _, tokenizer = language
    tokenizer = copy.deepcopy(tokenizer)
    config = AutoConfig.from_pretrained(
        folder, id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1}, max_position_embeddings=5
    )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(9) if fills_up else None
    config.pad_token_id = 9 if fills_up else None
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said = as_json(predict(tmp_path, "the cat", "the dog sat on the mat", "--json"))
    for answer, text in zip(said, ("the cat", "the dog sat on the mat"), strict=True):
        with torch.no_grad():  # of what the model has places for
            scores = model(tokenizer(text, return_tensors="pt").input_ids[:, :5]).logits[0].softmax(-1)
        assert {c["label"]: c["score"] for c in answer["classes"]} == pytest.approx(
            {"good": scores[0].item(), "bad": scores[1].item()}, abs=1e-5
        )


def test_long_texts_are_cut_to_what_the_tokenizer_is_meant_for_where_places_begin_behind_the_padding(
    predict, language, tmp_path
):
    tokenizer = copy.deepcopy(language[2])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(1)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 9, "pad_token_id": 1}
    model = RobertaForSequenceClassification(RobertaConfig(**sizes)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = "the cat sat on the mat and the dog on the log"
    with torch.no_grad():
        scores = model(tokenizer(text, return_tensors="pt").input_ids[:, :7]).logits[0].softmax(-1)
    (said,) = as_json(predict(tmp_path, text, "--json"))
    assert {c["label"]: c["score"] for c in said["classes"]} == pytest.approx(
        {"LABEL_0": scores[0].item(), "LABEL_1": scores[1].item()}, abs=1e-6
    )


def test_a_prompt_beyond_the_places_of_a_model_is_told_with_their_number(language, tmp_path, capsys):
    _, _, tokenizer = language
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=12, vocab_size=len(tokenizer))
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    count = len(tokenizer("the cat sat on the mat").input_ids)
    assert main(["predict", str(tmp_path), "the cat sat on the mat", "--max-new-tokens", "20"]) == 2
    message = f"INPUT: a text has {count} tokens, and 20 more may follow (--max-new-tokens), but the model takes 12."
    assert message in capsys.readouterr().err
    assert main(["predict", str(tmp_path), "the cat", "--max-new-tokens", "2"]) == 0


def test_questions_about_pictures_are_answered(predict, parts, photos, tmp_path, capsys):  # noqa: F811
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert main(["predict", str(tmp_path), str(photos)]) == 2
    assert "--prompt: what to ask about the pictures" in capsys.readouterr().err
    prompt = "Which colour is it?"
    said = as_json(predict(tmp_path, photos, "--json", "--prompt", prompt, "--max-new-tokens", 4))
    picture = read_image(photos / "a.png")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert said[0]["text"] == processor.decode(tokens, skip_special_tokens=True).strip() and len(said) == 2


def test_chat_answers_each_line_and_remembers_what_was_said(language, monkeypatch, capsys):
    folder, model, tokenizer = language
    monkeypatch.setattr("sys.stdin", io.StringIO("The cat\nthe dog\n\nnever read\n"))
    assert main(["chat", str(folder), "--max-new-tokens", "4"]) == 0
    first = greedy(model, tokenizer, "The cat", 4)
    second = greedy(model, tokenizer, f"The cat{first}\nthe dog", 4)
    assert capsys.readouterr().out == f"{first.strip()}\n{second.strip()}\n"
    terminal = io.StringIO("The cat\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    assert main(["chat", str(folder), "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == f"> {first.strip()}\n> ", "somebody who sits there is asked"
    for seed in (3, 4):
        monkeypatch.setattr("sys.stdin", io.StringIO("The cat\n"))
        drawn = ["--temperature", "1.5", "--seed", str(seed), "--max-new-tokens", "9"]
        assert main(["chat", str(folder), *drawn]) == 0
        torch.manual_seed(seed)
        ids = tokenizer("The cat", return_tensors="pt").input_ids
        how = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 9, "pad_token_id": tokenizer.eos_token_id}
        text = tokenizer.decode(model.generate(ids, **how)[0, ids.shape[1] :], skip_special_tokens=True)
        assert capsys.readouterr().out == f"{text.strip()}\n"
    assert main(["chat", str(folder), "--temperature", "-1"]) == 2
    assert "--temperature: got -1.0, accepted are numbers from 0" in capsys.readouterr().err


def test_what_a_chat_template_has_made_gets_no_second_beginning(language, tmp_path, monkeypatch, capsys):
    folder, model, tokenizer = language
    tokenizer = copy.deepcopy(tokenizer)
    start = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.eos_token_id)]
    )
    tokenizer.chat_template = start + "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    seen = []
    monkeypatch.setattr(type(model), "generate", lambda self, input_ids, **_: seen.append(input_ids[0]) or input_ids)
    for template in (True, False):
        if not template:
            (tmp_path / "chat_template.jinja").unlink()
        monkeypatch.setattr("sys.stdin", io.StringIO("The cat\n"))
        assert main(["chat", str(tmp_path)]) == 0
    for ids in seen:
        assert ids.tolist() == [tokenizer.eos_token_id, *tokenizer("The cat", add_special_tokens=False)["input_ids"]]
    assert len(seen) == 2


def test_no_pictures_go_into_a_file(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OSError, match=f"^--save: {tmp_path / 'notes'} is a file; accepted is a folder"):
        place_of(Input("a.png", "a.png", "a"), str(tmp_path / "notes"))


@pytest.mark.parametrize("content", [b"mine", b""])
def test_a_file_that_is_no_picture_of_ours_is_not_written_over(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FileExistsError, match="--save: .*a.png is there already, and not of an earlier call"):
        place_of(Input("b", "b.png", "a"), str(tmp_path))
    (tmp_path / "a.png").unlink()
    save(Image.new("RGB", (2, 2)), tmp_path / "a.png")
    assert place_of(Input("b", "b.png", "a"), str(tmp_path)) == tmp_path / "a.png"
    with pytest.raises(FileExistsError, match="--save: .*a.png is there already"):
        place_of(Input("a", str(tmp_path / "a.png"), "a"), str(tmp_path))


@pytest.mark.parametrize(
    "folder, name",
    [
        ("saved", "{here}/saved/a.png"),
        ("{here}/saved", "saved/a.png"),
        ("saved", "./saved/../saved/a.png"),
        ("saved", "{here}/link/a.png"),
        ("link", "saved/a.png"),
    ],
    ids=["absolute", "relative", "dotted", "by-a-link", "into-a-link"],
)
def test_an_input_is_not_written_over_by_whatever_name_it_is_called(folder, name, tmp_path, monkeypatch):
    """Not even one that an earlier call has written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "link").symlink_to("saved")
    save(Image.new("RGB", (2, 2)), tmp_path / "saved" / "a.png")
    folder, name = (text.format(here=tmp_path) for text in (folder, name))
    with pytest.raises(FileExistsError, match="--save: .*a.png is there already"):
        place_of(Input("a", name, "a"), folder)
    (tmp_path / "b.png").write_bytes((tmp_path / "saved" / "a.png").read_bytes())  # as it, and another file
    assert place_of(Input("a", "b.png", "a"), folder) == Path(folder, "a.png")


def test_names_are_chosen_from_as_the_whole_model_does(tmp_path):
    """The scores of a stock CLIP for each name in its sentence, the likeliest first."""
    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=12)).eval()
    model.save_pretrained(tmp_path)
    both = clip_processor()
    both.save_pretrained(tmp_path)
    picture, names = Image.linear_gradient("L").convert("RGB"), ["cat", "dog", "a bird"]
    options = Options(labels=tuple(names), template="this is {}", top_k=2)
    predictor = load_predictor(str(tmp_path), options=options, device="cpu")
    (said,) = predictor.answer([picture])
    given = both(images=picture, text=[f"this is {name}" for name in names], padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = model(**given).logits_per_image[0].softmax(-1)
    best = scores.argsort(descending=True)[:2].tolist()
    assert [found["label"] for found in said["classes"]] == [names[number] for number in best]
    assert [found["score"] for found in said["classes"]] == pytest.approx(scores[best].tolist(), abs=1e-5)
    assert predictor.rows(said) == [
        {"rank": rank, **found} for rank, found in zip((1, 2), said["classes"], strict=True)
    ]


def test_every_option_has_a_task_and_every_task_knows_its_options():
    assert USED.keys() == MODULES.keys()
    assert {name for names in USED.values() for name in names} == {f.name for f in fields(Options)}


def test_numbers_that_are_none_and_files_that_are_no_text_are_named(language, tmp_path, capsys, photos):
    folder, model, tokenizer = language
    assert main(["predict", str(folder), str(photos / "a.png")]) == 2
    assert f"INPUT: {photos / 'a.png'} is no file of text in UTF-8" in capsys.readouterr().err
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.parameters())[0, 0] = float("nan")
    broken.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for command in (["predict", str(tmp_path), "The cat"], ["chat", str(tmp_path)]):
        assert main(command) == 2
        assert f"MODEL: {tmp_path} has 1 broken weights: " in capsys.readouterr().err


def test_the_first_colour_is_a_red_and_neighbours_are_far_apart():
    # Hue 0 at a saturation of 85 % and a value of 95 %: 0.95 of 255, and 0.95 · 0.15 of it.
    assert color(0) == (242, 36, 36)
    # Hue 3 · 0.618034 is 5.1246 sixths of the circle from red: of blue 0.95 · (1 - 0.85 · 0.1246).
    assert color(3) == (242, 36, round(255 * 0.95 * (1 - 0.85 * 0.1246)))
    hues = [colorsys.rgb_to_hsv(*(part / 255 for part in color(number)))[0] for number in range(5)]
    assert min(min(abs(a - b), 1 - abs(a - b)) for a, b in itertools.pairwise(hues)) > 0.3


def test_a_regression_is_told_by_its_numbers(language, tmp_path, predict):
    tokenizer = language[2]
    config = copy.deepcopy(language[1].config)
    config.num_labels, config.problem_type = 1, "regression"
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.score.weight.mul_(100)
        (number,) = model(**tokenizer("The cat", return_tensors="pt", return_token_type_ids=False)).logits[0].tolist()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (said,) = as_json(predict(tmp_path, "The cat", "--json"))
    assert said["classes"][0]["score"] == pytest.approx(number, abs=1e-5) and not 0 <= number <= 1
    assert predict(tmp_path, "The cat").strip().endswith(f"LABEL_0 {number:g}")
    with torch.no_grad():
        model.score.weight.fill_(3e38)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="MODEL: what it computes is not finite"):
        load_predictor(str(tmp_path)).answer(["The cat"])


def test_pictures_whose_shapes_the_processor_keeps_have_the_classes_that_they_have_alone(tmp_path):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    model, keeping = (
        ResNetForImageClassification(config).eval(),
        CLIPImageProcessorPil(size={"shortest_edge": 16}, do_center_crop=False),
    )
    model.save_pretrained(tmp_path)
    keeping.save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    shapes = ((20, 30), (20, 30), (40, 20), (20, 30))
    pictures = [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    said = load_predictor(str(tmp_path), device="cpu").answer(pictures)
    for one, picture in zip(said, pictures, strict=True):
        with torch.no_grad():
            scores = model(keeping(picture, return_tensors="pt").pixel_values).logits[0].softmax(-1)
        found = {c["label"]: c["score"] for c in one["classes"]}
        assert found == pytest.approx({f"LABEL_{n}": score for n, score in enumerate(scores.tolist())}, abs=1e-5)


def test_the_likeliest_classes_are_of_all_together_or_each_by_itself():
    logits = torch.tensor([0.5, -1.0, 2.0])
    for options, scores in (
        ({}, logits.exp() / logits.exp().sum()),
        ({"problem_type": "multi_label_classification"}, 1 / (1 + (-logits).exp())),
        ({"problem_type": "regression"}, logits),
    ):
        config = SimpleNamespace(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, **options)
        found = classes_of(logits, config, 2)
        assert [one["label"] for one in found] == ["c", "a"]
        assert [one["score"] for one in found] == pytest.approx(scores[[2, 0]].tolist())
    alone = classes_of(logits[:1], SimpleNamespace(num_labels=1, id2label={0: "yes"}), 5)
    assert alone == [{"label": "yes", "score": pytest.approx(1 / (1 + np.exp(-0.5)))}]


def test_a_mask_is_told_by_its_pixels_and_its_box_holds_the_last_of_them():
    mask = np.zeros((8, 9), dtype=bool)
    mask[1, 3:6] = mask[2, 4] = True
    said = masks_said({"masks": [mask, np.zeros_like(mask)], "scores": torch.tensor([0.75, 0.5])})
    sides = {"xmin": 3, "ymin": 1, "xmax": 6, "ymax": 3}
    assert said["masks"][0] == {"score": 0.75, "area": 4, **sides}
    assert said["masks"][1] == {"score": 0.5, "area": 0, **dict.fromkeys(sides, 0)}


def test_a_continuation_has_no_special_tokens_and_a_network_the_precision_it_was_saved_in(language, tmp_path):
    _, model, tokenizer = language
    end = tokenizer.eos_token_id
    more = SimpleNamespace(
        device="cpu", generate=lambda input_ids, **_: torch.cat([input_ids, torch.tensor([[5, end]])], 1)
    )
    assert continuation(more, tokenizer, "The cat", 2) == tokenizer.decode([5])
    with pytest.raises(ValueError, match="an empty text: this model has nothing to go on from"):
        continuation(more, tokenizer, "", 2)
    framing, seen = copy.deepcopy(tokenizer), []
    framing.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.eos_token} $A", special_tokens=[(tokenizer.eos_token, end)]
    )
    watched = SimpleNamespace(
        device="cpu", generate=lambda input_ids, **how: seen.append((input_ids, how)) or input_ids
    )
    continuation(watched, framing, "The cat", 2, temperature=0.5)
    assert seen[0][0][0].tolist() == [end, *tokenizer("The cat").input_ids], "it begins as the model's texts begin"
    assert (seen[0][1]["max_new_tokens"], seen[0][1]["do_sample"], seen[0][1]["temperature"]) == (2, False, 0.5)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_network(Source(str(tmp_path)), "AutoModelForCausalLM", "cpu").dtype == torch.bfloat16


def test_lines_of_standard_input_are_read_once_and_their_pictures_written(photos, tmp_path, monkeypatch, capsys):
    """What can be known before of names is looked at before; standard input is not, it could be read once only."""
    predictor = Predictor("x", "image", lambda images: [{} for _ in images], str, list, lambda image, _: image)
    files = [str(photos / "a.png"), str(photos / "scans" / "b.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(files)))
    how = SimpleNamespace(save=str(tmp_path), output=None, json=True, csv=False, batch_size=8)
    how.inputs = [files[0], "-"]
    assert run_prediction(predictor, Options(), None, how, Processes()) == 0
    told = [(answer["input"], answer["saved"]) for answer in as_json(capsys.readouterr().out)]
    places = [str(tmp_path / name) for name in ("a.png", "a-2.png", "b.png")]
    assert told == [*zip([files[0], *files], places, strict=True)]


@pytest.mark.parametrize(
    "mark, fills, together", [("<pad>", 0, True), ("<pad>", None, False), (None, 0, False), (None, None, False)]
)
def test_texts_are_encoded_together_where_tokenizer_and_model_know_what_fills_up(mark, fills, together, monkeypatch):
    calls = []

    class Tokenizer:
        pad_token = mark

        def __call__(self, given, **options):
            calls.append((given, options))
            return len(calls)

    monkeypatch.setattr(classes, "load_part", lambda source, auto: Tokenizer())
    for limit, cut in ((7, {"truncation": True, "max_length": 7}), (None, {})):
        calls.clear()
        model = SimpleNamespace(config=SimpleNamespace(pad_token_id=fills, max_position_embeddings=limit))
        found = classes._encode_texts(Source("m"), model)(("a", "b c"))
        options = {"return_tensors": "pt", **cut}
        if together:
            assert calls == [(["a", "b c"], options | {"padding": True})] and found == [1]
        else:
            one = options | {"padding": False}
            assert calls == [("a", one), ("b c", one)] and found == [1, 2]


@pytest.mark.parametrize("size, width", [((500, 1000), 2), ((1000, 600), 3), ((90, 2000), 1), ((700, 800), 4)])
def test_the_lines_of_a_box_are_as_thick_as_the_picture_is_small(size, width):
    """One in two hundred of its shorter side, and a pixel at least."""
    drawn = np.asarray(draw_boxes(Image.new("RGB", size), [(4, 20, 60, 80)], ["b"], [0.9]))
    assert drawn[60, :40].any(-1).sum() == width


def test_names_stand_in_the_midst_of_their_own_masks_whatever_their_order():
    places = {
        "small": (slice(4, 12), slice(4, 30)),
        "large": (slice(30, 90), slice(20, 110)),
        "tiny": (slice(15, 22), slice(90, 116)),
    }
    masks = []
    for rows, columns in places.values():
        masks.append(np.zeros((100, 120), dtype=bool))
        masks[-1][rows, columns] = True
    plain = np.asarray(draw_masks(Image.new("RGB", (120, 100)), masks)).astype(int)
    for number, name in enumerate(places):
        texts = ["x" if n == number else "" for n in range(3)]
        changed = np.abs(np.asarray(draw_masks(Image.new("RGB", (120, 100)), masks, texts)) - plain).sum(-1) > 0
        (rows, columns), where = places[name], np.argwhere(changed)
        assert len(where) and np.abs(where[:, 0] - (rows.start + rows.stop) // 2).max() < 16, name
        assert columns.start - 2 <= where[:, 1].min() <= where[:, 1].max() < columns.stop + 10, name


def test_a_box_without_an_extent_is_a_dot_and_a_mask_without_a_pixel_has_no_name():
    drawn = np.asarray(draw_boxes(Image.new("RGB", (90, 90)), [(50, 80, 40, 70)], [""], [0.5]))
    assert drawn[80, 50].any() and not drawn[70:80, 40:50].any()
    none, some = np.zeros((2, 40, 60), dtype=bool)
    some[10:30, 20:50] = True
    plain = np.asarray(draw_masks(Image.new("RGB", (60, 40)), [none, some]))
    named = np.asarray(draw_masks(Image.new("RGB", (60, 40)), [none, some], ["none", "x"]))
    rows, columns = np.nonzero((named != plain).any(2))
    assert rows.min() >= 18 and columns.min() >= 18, "it begins in the midst of the mask, which is row 20"
    assert (np.asarray(draw_masks(Image.new("RGB", (60, 40)), [none], ["none"])) == 0).all()
    tall = np.ones((300, 60), dtype=bool)
    ground = Image.new("RGB", (60, 300))
    drawn, plain = (np.asarray(draw_masks(ground, [tall], texts)) for texts in (["x"], []))
    rows, _ = np.nonzero((drawn != plain).any(2))
    assert 145 <= rows.min() <= rows.max() < 175, "of 300 rows in the 150th"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_chat_says_is_on_the_screen_before_it_waits_for_more(terminal, language, monkeypatch):
    """Also where standard output is a pipe, which is written in pieces."""
    pending, shown = [], []

    class Screen:
        def write(self, text):
            pending.append(text)

        def flush(self):
            shown.extend(pending)
            pending.clear()

    class Keyboard:
        lines = iter(["The cat\n", ""])

        def isatty(self):
            return terminal

        def readline(self):
            assert not pending
            return next(self.lines)

    monkeypatch.setattr("hf_effmodels.prediction.talk.continuation", lambda *_, **__: " sat ")
    monkeypatch.setattr("sys.stdout", Screen())
    monkeypatch.setattr("sys.stdin", Keyboard())
    talk(Source(str(language[0])), "cpu", 3, 0.0, 0)
    assert "".join(shown) == ("> sat\n> " if terminal else "sat\n")


def test_sentences_that_are_longer_than_the_model_reads_are_cut(tmp_path, monkeypatch):
    """To as many tokens as its text tower has places for, all of them in one batch."""
    given, tower = [], SimpleNamespace(max_position_embeddings=9)

    class Processor:
        @staticmethod
        def tokenizer(texts, **options):
            given.append((texts, options))
            return BatchFeature({"input_ids": torch.ones(len(texts), 2, dtype=torch.long)})

    model = SimpleNamespace(
        config=SimpleNamespace(text_config=tower), device="cpu", dtype=torch.float32, logit_scale=torch.tensor(0.0)
    )
    vectors = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    model.get_text_features = lambda input_ids: SimpleNamespace(pooler_output=vectors)
    monkeypatch.setattr(named, "load_network", lambda *_: model)
    monkeypatch.setattr(named, "load_part", lambda *_: Processor)
    options = Options(labels=("cat", "dog"), template="a {} here")
    named.load("zero-shot-image-classification", Source(str(tmp_path)), options, "cpu")
    how = {"padding": True, "truncation": True, "max_length": 9, "return_tensors": "pt"}
    assert given == [(["a cat here", "a dog here"], how)]


@pytest.mark.parametrize("scale", [2.0, torch.tensor(2.0).log()])
def test_the_surest_names_are_told_by_the_angle_between_picture_and_sentence(scale, tmp_path, monkeypatch):
    """Of programs the scale is a number, of networks its logarithm; how long the vectors are says nothing."""
    part = SimpleNamespace(
        tokenizer=lambda texts, **_: BatchFeature({"input_ids": torch.ones(3, 2)}),
        image_processor=lambda images, **_: BatchFeature({"pixel_values": torch.zeros(len(images), 3, 4, 4)}),
    )
    texts, image = torch.tensor([[3.0, 4.0], [0.5, 0.0], [0.0, 9.0]]), torch.tensor([[6.0, 8.0], [5.0, 0.0]])
    model = SimpleNamespace(
        config=SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=9)),
        device="cpu",
        dtype=torch.float32,
        logit_scale=scale,
        get_text_features=lambda input_ids: SimpleNamespace(pooler_output=texts),
        get_image_features=lambda pixel_values: SimpleNamespace(pooler_output=image),
    )
    loaded = []
    (tmp_path / FACTS).write_text("{}") if isinstance(scale, float) else None
    monkeypatch.setattr(edge_two_towers, "load_two_towers", lambda name: loaded.append("program") or model)
    monkeypatch.setattr(named, "load_network", lambda *given: loaded.append(given[1:]) or model)
    monkeypatch.setattr(named, "load_part", lambda *_: part)
    options = Options(labels=("cat", "dog", "bird"), top_k=2)
    predictor = named.load("zero-shot-image-classification", Source(str(tmp_path)), options, "cuda:1")
    auto = "AutoModelForZeroShotImageClassification"
    assert loaded == ["program" if isinstance(scale, float) else (auto, "cuda:1")]
    up, right = predictor.answer([None, None])
    # The cosines of either with the three sentences.
    for said, names, cosines in ((up, ("cat", "bird"), (1.0, 0.6, 0.8)), (right, ("dog", "cat"), (0.6, 1.0, 0.0))):
        shares = np.exp(2 * np.array(cosines))
        best = sorted(shares / shares.sum(), reverse=True)[:2]
        assert [one["label"] for one in said["classes"]] == list(names)
        assert [one["score"] for one in said["classes"]] == pytest.approx(best, abs=1e-6)
        told = "  ".join(f"{name} {100 * share:.1f} %" for name, share in zip(names, best, strict=True))
        assert predictor.line(said) == told
        assert [row["rank"] for row in predictor.rows(said)] == [1, 2]


def two_towers(kind: str):
    """A model whose texts may have 64 tokens, and its image processor."""
    text = {**TEXT, "num_hidden_layers": 1, "max_position_embeddings": 64, "bos_token_id": 97, "pad_token_id": 98}
    vision, squares = {**VIT, "num_hidden_layers": 1}, clip_processor().image_processor
    if kind == "light_clip":
        return build(LightClipModel), squares
    if kind == "align":
        one = {"kernel_sizes": [3], "in_channels": [8], "out_channels": [8], "strides": [1], "num_block_repeats": [1]}
        one |= {"expand_ratios": [1], "depthwise_padding": [], "hidden_dim": 16, "width_coefficient": 0.25}
        sizes = {"text_config": text, "vision_config": {**one, "image_size": 32}, "projection_dim": 8}
        return AlignModel(AlignConfig(**sizes)).eval(), squares
    if kind == "siglip2":  # whose pictures keep their shapes
        vision["num_patches"], squares = 16, Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    config, network = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel),
                       "siglip2": (Siglip2Config, Siglip2Model)}[kind]  # fmt: skip
    model = network(config(text_config=text, vision_config=vision)).eval()
    if kind != "clip":
        model.logit_scale.data.fill_(1.3)
        model.logit_bias.data.fill_(-0.7)
    return model, squares


@pytest.mark.parametrize("kind", ["clip", "light_clip", "siglip", "siglip2", "align"])
def test_names_have_the_scores_that_the_pipeline_of_transformers_gives_them(kind, monkeypatch):
    torch.manual_seed(0)
    model, squares = two_towers(kind)
    tokenizer = clip_processor().tokenizer
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((40, 60), (30, 20))]
    stock = pipeline(
        "zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=squares, device="cpu"
    )
    names = ("cat", "the old dog", "a")
    expected = stock(pictures, candidate_labels=list(names), hypothesis_template="so {}.")
    both = SimpleNamespace(tokenizer=tokenizer, image_processor=squares)
    monkeypatch.setattr(named, "load_network", lambda *_: model)
    monkeypatch.setattr(named, "load_part", lambda *_: both)
    options = Options(labels=names, template="so {}.")
    said = named.load("zero-shot-image-classification", Source("m"), options, "cpu").answer(pictures)
    for one, theirs in zip(said, expected, strict=True):
        scores = {found["label"]: found["score"] for found in theirs}
        assert {found["label"]: found["score"] for found in one["classes"]} == pytest.approx(scores, abs=1e-5)


def test_what_was_said_is_told_by_the_template_and_asks_for_an_answer_or_stands_in_a_row():
    said = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    assert as_prompt(SimpleNamespace(chat_template=None), said) == as_prompt(SimpleNamespace(), said) == "ab\nc"
    asked = []
    tokenizer = SimpleNamespace(chat_template="x")
    tokenizer.apply_chat_template = lambda *given, **how: asked.append((given, how)) or "as the model has it"
    assert as_prompt(tokenizer, said) == "as the model has it"
    assert asked == [((said,), {"tokenize": False, "add_generation_prompt": True})]


def test_each_label_has_its_colour_by_the_order_of_the_names_and_not_of_the_boxes():
    names = ["fox", "cat", "emu", "dog", "bee", "ape", "cat"]
    boxes = [(10 * n, 40, 10 * n + 8, 60) for n in range(len(names))]
    drawn = np.asarray(draw_boxes(Image.new("RGB", (80, 80)), boxes, names, [0.5] * len(names)))
    for (left, *_), name in zip(boxes, names, strict=True):
        assert tuple(drawn[60, left + 4]) == color(sorted({*names}).index(name)), name


def test_names_of_masks_are_read_on_any_ground():
    mask = np.ones((40, 60), dtype=bool)
    for ground in (0, 255):
        drawn = np.asarray(draw_masks(Image.new("RGB", (60, 40), (ground,) * 3), [mask], ["name"])).reshape(-1, 3)
        assert drawn.min(1).max() > 180 and drawn.max(1).min() < 60, "light letters with a dark edge"


@pytest.mark.parametrize("config, channels", [({"num_channels": 1}, 1), ({}, 3), ({"num_channels": 4}, 4)])
def test_pictures_are_read_in_the_channels_of_the_model_and_in_three_where_it_says_none(config, channels, monkeypatch):
    model = SimpleNamespace(config=SimpleNamespace(**config))
    monkeypatch.setattr(classes, "load_network", lambda *given: model)
    monkeypatch.setattr(classes, "_encode_images", lambda source: None)
    predictor = classes.load("image-classification", Source("m"), Options(), "cpu")
    assert (predictor.num_channels, predictor.takes, predictor.draw) == (channels, "image", None)


@pytest.mark.parametrize("fills, end, told", [(7, 3, 7), (None, 3, 3), (None, None, None)])
def test_a_continuation_is_filled_up_with_what_the_tokenizer_fills_with_else_with_its_end(fills, end, told):
    given = []

    class Tokenizer:
        pad_token_id, eos_token_id = fills, end

        def __call__(self, text, **options):
            given.append((text, options))
            return BatchFeature({"input_ids": torch.tensor([[1, 2]])})

        def decode(self, tokens, skip_special_tokens):
            return tokens.tolist(), skip_special_tokens

    def generate(**how):
        given.append(how)
        return torch.tensor([[1, 2, 8, 9]])

    model = SimpleNamespace(device="cpu", generate=generate)
    assert continuation(model, Tokenizer(), "a", 5, add_special_tokens=False) == ([8, 9], True)
    (text, options), how = given
    assert text == "a" and options == {
        "return_tensors": "pt", "return_token_type_ids": False, "add_special_tokens": False
    }  # fmt: skip
    assert (how["pad_token_id"], how["max_new_tokens"], how["do_sample"]) == (told, 5, False)


def test_a_box_is_called_by_its_label_and_its_score_in_whole_per_cent_in_black_on_its_colour():
    drawn = draw_boxes(Image.new("RGB", (120, 90), "white"), [(10, 30, 100, 80)], ["cat"], [0.876])
    own = Image.new("RGB", (120, 90), "white")
    pen = ImageDraw.Draw(own)
    place = pen.textbbox((10, 30), "cat 88 %")
    pen.rectangle(place, fill=color(0))
    pen.text((10, 30), "cat 88 %", fill="black")
    region = [round(side) for side in place]
    assert np.array_equal(np.asarray(drawn.crop(region)), np.asarray(own.crop(region)))
    assert (np.asarray(drawn.crop(region)).max(2) < 60).any(), "there is something to read"


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_one_number_that_is_none_is_enough_to_give_no_answer(broken, monkeypatch):
    asked, config = [], SimpleNamespace(num_labels=2, id2label={0: "a", 1: "b"})

    def model(**inputs):
        asked.append(inputs)
        return SimpleNamespace(logits=torch.tensor([[1.0, 2.0], [0.0, broken if len(asked) > 1 else 3.0]]))

    model.config, model.device, model.dtype = config, "cpu", torch.float64
    inputs = {"pixel_values": torch.zeros(2, 3), "ids": torch.ones(2, 1, dtype=torch.int32)}
    monkeypatch.setattr(classes, "load_network", lambda *given: model)
    monkeypatch.setattr(classes, "_encode_images", lambda source: lambda images: [inputs])
    answer = classes.load("image-classification", Source("m"), Options(top_k=1), "cpu").answer
    assert [[one["label"] for one in said["classes"]] for said in answer([None, None])] == [["b"], ["b"]]
    # Numbers are given in the precision of the network, counts as they are.
    assert [value.dtype for value in asked[0].values()] == [torch.float64, torch.int32]
    with pytest.raises(ValueError, match="^MODEL: what it computes is not finite.$"):
        answer([None, None])


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("into", [None, "out.jsonl"])
def test_pictures_come_to_a_model_in_its_own_channels(channels, mode, into, photos, tmp_path):
    seen = []

    def answer(images):
        seen.extend(image.mode for image in images)
        return [{} for _ in images]

    predictor = Predictor("x", "image", answer, lambda said: "", lambda said: [], num_channels=channels)
    how = SimpleNamespace(save=None, output=into and str(tmp_path / into), json=True, csv=False, batch_size=8)
    how.inputs, how.model, how.revision = [str(photos)], "m", None
    assert run_prediction(predictor, Options(), None, how, Processes()) == 0 and seen == [mode, mode]


def test_of_a_folder_pictures_of_any_ending_are_taken_in_order_and_nothing_else(tmp_path):
    names = ["b.JPG", "a.png", "deep/er/c.Jpeg", "deep/a.webp", "d.tif", "e.bmp", "Z.PNG"]
    for name in [*names, "notes.txt", "list.csv", "none", "model.safetensors"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = [item.name for item in find_inputs([str(tmp_path)], "image")]
    assert found == [str(tmp_path / name) for name in sorted(names, key=lambda name: name.split("/"))]
    # What is named itself is taken in the order it is named in, as often as that, whatever its ending.
    given = [str(tmp_path / name) for name in ("none", "a.png", "none")]
    assert [item.name for item in find_inputs(given, "image")] == given


@pytest.mark.parametrize("into", [None, "out.jsonl"])
def test_pictures_of_one_name_are_written_side_by_side_wherever_the_answers_go(into, photos, tmp_path, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(photos / "a.png", tmp_path / folder / "a.png")
    predictor = Predictor("x", "image", lambda images: [{} for _ in images], str, list, lambda image, _: image)
    how = SimpleNamespace(output=into and str(tmp_path / into), json=True, csv=False, batch_size=1)
    how.save, how.model, how.revision = str(tmp_path / "drawn"), "m", None
    how.inputs = [str(tmp_path / folder) for folder in ("one", "two")]
    assert run_prediction(predictor, Options(), None, how, Processes()) == 0
    told = as_json((tmp_path / into).read_text() if into else capsys.readouterr().out)
    assert [answer["saved"] for answer in told] == [str(tmp_path / "drawn" / name) for name in ("a.png", "a-2.png")]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a-2.png", "a.png"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_as_many_inputs_as_said_are_answered_at_a_time_and_each_gets_its_own_answer(size, tmp_path, capsys):
    """Also where some of a batch, or all of it, cannot be read."""
    asked = []

    def answer(texts):
        asked.append(list(texts))
        return [{"said": text.upper()} for text in texts]

    words = ["a", " ", "c", "d", "", "f", "g"]
    rows = Numbered(7, lambda n: Input(f"row {n}", words[n]), str, dict)
    predictor = Predictor("x", "text", answer, lambda said: said["said"], lambda said: [said])
    how = SimpleNamespace(save=None, output=None, json=False, csv=False, batch_size=size)
    assert run_prediction(predictor, Options(), rows, how, Processes()) == 2
    out, err = capsys.readouterr()
    assert out == "".join(f"row {n}: {word.upper()}\n" for n, word in enumerate(words) if word.strip())
    assert err == "".join(f"hf-effmodels: row {n}: there is no text\n" for n in (1, 4))
    batches = [[word for word in words[n : n + size] if word.strip()] for n in range(0, 7, size)]
    assert asked == [batch for batch in batches if batch]


@pytest.mark.parametrize("end", ["", "\n", "   \n", "\t\n"])
def test_a_chat_ends_at_an_empty_line_or_with_the_input(end, monkeypatch, capsys):
    monkeypatch.setattr("hf_effmodels.prediction.talk.find_task", lambda source, task: (source, task))
    monkeypatch.setattr("hf_effmodels.prediction.talk.load_part", lambda *_: SimpleNamespace())
    monkeypatch.setattr("hf_effmodels.prediction.talk.load_network", lambda *_: None)
    monkeypatch.setattr("hf_effmodels.prediction.talk.continuation", lambda *_, **__: "yes")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"one\ntwo\n{end}" + ("never\n" if end else "")))
    talk(Source("m"), "cpu", 3, 0.0, 0)
    assert capsys.readouterr().out == "yes\nyes\n"
