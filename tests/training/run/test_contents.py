"""What lies behind the names that a run was given is recorded, and a run does not go on with something else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
)

from hf_effmodels.training import prepare
from hf_effmodels.training.data import fingerprints
from hf_effmodels.training.data.fingerprints import facts, fingerprint, picture, weights_fingerprint
from hf_effmodels.training.run.output_folder import RUN_FILE, WEIGHTS_WITHOUT_EMA, write_run

from ..tasks.distillation.conftest import teacher  # noqa: F401
from ..tasks.image_text_to_text.conftest import bases, colour_run, colours, model_arguments  # noqa: F401
from ..tasks.super_resolution.conftest import encoder, pictures, short_run  # noqa: F401
from .test_output_folder import write_checkpoint


def begun(argv: list[str]) -> list[str]:
    """Record the run as it begins, as if it had been killed after its first checkpoint; returns how it goes on."""
    output = argv[argv.index("--output_dir") + 1]
    run = prepare("prepare_training", argv)
    folder = write_checkpoint(Path(output), 1).parent
    if "--ema_decay" in argv:
        shutil.copy(folder / "checkpoint-1" / "model.safetensors", folder / "checkpoint-1" / WEIGHTS_WITHOUT_EMA)
    write_run(folder, run.config)
    return [*argv, "--resume_from_checkpoint", "true"]


def change_weights(folder) -> None:
    """The last number of each file of weights, as a longer training would have."""
    for file in folder.rglob("*.safetensors"):
        weights = load_file(file)
        for weight in weights.values():
            if weight.is_floating_point() and weight.numel():
                weight.view(-1)[-1] += 1
                weight.view(-1)[0] += 1
        save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture
def photos(tmp_path):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for number in range(12):
        file = folder / "train" / "ab"[number % 2] / f"{number}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture
def classified(photos, convnext_folder, tmp_path):
    shutil.copytree(convnext_folder, tmp_path / "model")
    return [
        *("--model", str(tmp_path / "model"), "--ignore_mismatched_sizes", "true", "--dataset", str(photos)),
        *("--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "run"), "--disable_tqdm", "true"),
    ]


def repaint(photos) -> None:
    """Another picture in a file of the same name and size."""
    file = photos / "train" / "a" / "4.bmp"
    content = bytearray(file.read_bytes())
    content[-300] ^= 255
    file.write_bytes(content)


def relabel(photos) -> None:
    (photos / "train" / "a" / "4.bmp").rename(photos / "train" / "b" / "4.bmp")


def add(photos) -> None:
    shutil.copy(photos / "train" / "a" / "4.bmp", photos / "train" / "a" / "44.bmp")


@pytest.mark.parametrize(
    "change, message",
    [
        (repaint, "the pictures of the (training|evaluation) data"),
        (relabel, "the labels of the training data"),
        (add, "the samples of the training data .10 -> 11."),
    ],
)
def test_a_run_does_not_go_on_with_other_pictures(classified, photos, tmp_path, change, message):
    goes_on = begun(classified)
    run = prepare("prepare_training", goes_on)
    recorded = yaml.safe_load((tmp_path / "run" / RUN_FILE).read_text())["contents"]
    assert recorded == run.config["contents"] and recorded["training data"]["samples"] == 10
    change(photos)
    with pytest.raises(ValueError, match=f"holds a run on other data or weights.*{message}"):
        prepare("prepare_training", goes_on)
    other = [*classified[: classified.index("--output_dir")], "--output_dir", str(tmp_path / "other")]
    prepare("prepare_training", [*other, "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-1")])


def test_a_run_does_not_go_on_with_another_model_under_its_name(classified, tmp_path):
    goes_on = begun(classified)
    change_weights(tmp_path / "model")
    with pytest.raises(ValueError, match="under the same names: the weights of the model. Bring back"):
        prepare("prepare_training", goes_on)


def test_a_record_without_contents_is_one_of_an_older_version(classified, tmp_path):
    goes_on = begun(classified)
    recorded = yaml.safe_load((tmp_path / "run" / RUN_FILE).read_text())
    write_run(tmp_path / "run", {key: value for key, value in recorded.items() if key != "contents"})
    prepare("prepare_training", goes_on)
    # And the record is a recipe still.
    write_run(tmp_path / "run", recorded)
    again = ["--config", str(tmp_path / "run" / RUN_FILE), "--output_dir", str(tmp_path / "again")]
    assert prepare("prepare_training", again).config["contents"] == recorded["contents"]


def test_no_other_teacher_goes_on_teaching(digits_run, teacher, tmp_path):  # noqa: F811
    shutil.copytree(teacher, tmp_path / "teacher")
    run = [*digits_run, "--task", "distillation", "--teacher", str(tmp_path / "teacher")]
    goes_on = begun([*run, "--output_dir", str(tmp_path / "run")])
    prepare("prepare_training", goes_on)
    change_weights(tmp_path / "teacher")
    with pytest.raises(ValueError, match="under the same names: the weights of the teacher .*teacher"):
        prepare("prepare_training", goes_on)


def test_no_other_text_is_gone_on_with(text_run, text_file, tmp_path):
    file = tmp_path / "lines.txt"
    shutil.copy(text_file, file)
    run = [*text_run, "--dataset", str(file), "--output_dir", str(tmp_path / "run")]
    goes_on = begun(run)
    shutil.rmtree(tmp_path / "run" / "checkpoint-1")  # without a tokenizer; one that is whole has it
    prepare("prepare_training", run).trainer.processing_class.save_pretrained(write_checkpoint(tmp_path / "run", 1))
    prepare("prepare_training", goes_on)
    file.write_text(file.read_text().replace("Line 7 tells", "Line 7 sells"))
    with pytest.raises(ValueError, match="under the same names: the documents of the (training|evaluation) text"):
        prepare("prepare_training", goes_on)


def test_no_other_encoder_or_picture_is_gone_on_with(short_run, pictures, encoder, tmp_path):  # noqa: F811
    shutil.copytree(encoder, tmp_path / "encoder")
    shutil.copytree(pictures, tmp_path / "pictures")
    run = [*short_run, "--encoder", str(tmp_path / "encoder"), "--dataset", str(tmp_path / "pictures")]
    goes_on = begun([*run, "--output_dir", str(tmp_path / "run")])
    prepare("prepare_training", goes_on)
    change_weights(tmp_path / "encoder")
    Image.open(tmp_path / "pictures" / "3.png").rotate(180).save(tmp_path / "pictures" / "3.png")
    with pytest.raises(ValueError, match="the pictures of the .* data; the weights of the encoder"):
        prepare("prepare_training", goes_on)


def test_no_other_frozen_parts_or_questions_are_gone_on_with(colour_run, bases, colours, tmp_path):  # noqa: F811
    shutil.copytree(bases, tmp_path / "bases")
    shutil.copytree(colours, tmp_path / "colours")
    places = {str(bases): str(tmp_path / "bases"), str(colours): str(tmp_path / "colours")}
    run = [next((word.replace(old, new) for old, new in places.items() if old in word), word) for word in colour_run]
    goes_on = begun([*run, "--output_dir", str(tmp_path / "run")])
    prepare("prepare_training", goes_on)
    change_weights(tmp_path / "bases" / "clip")
    table = tmp_path / "colours" / "table.jsonl"
    table.write_text(table.read_text().replace('"green"', '"greem"'))
    with pytest.raises(ValueError, match="the texts of the .* data; .*the weights of the frozen parts"):
        prepare("prepare_training", goes_on)


def detection(folder: Path) -> tuple[list[str], Callable]:
    (folder / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number,) * 3).save(folder / "images" / f"{number}.png")
    objects = [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 9, 9]} for n in range(4)]
    content = {"images": [{"id": n, "file_name": f"{n}.png"} for n in range(4)], "annotations": objects}
    content["categories"] = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]

    def write(side: int = 9) -> None:
        objects[2]["bbox"] = [4, 4, 9, side]
        for split in ("train", "val"):
            (folder / f"{split}.json").write_text(json.dumps(content))

    write()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = YolosConfig(**sizes, image_size=[32, 32], patch_size=16, num_detection_tokens=4, num_labels=2)
    YolosForObjectDetection(config).save_pretrained(folder / "model")
    YolosImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "model")
    argv = ["--task", "object-detection", "--model", str(folder / "model"), "--dataset", str(folder)]
    argv += ["--annotations", "{split}.json", "--image_folder", "images"]
    return argv, lambda: write(8)


def segmentation(folder: Path) -> tuple[list[str], Callable]:
    for split in ("training", "validation"):
        for part, mode in (("images", "RGB"), ("annotations", "L")):
            (folder / part / split).mkdir(parents=True)
            for number in range(3):
                Image.new(mode, (32, 32), number % 2).save(folder / part / split / f"{number}.png")
    model = SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8, num_labels=2
        )
    )
    model.save_pretrained(folder / "model")
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "model")
    argv = ["--task", "semantic-segmentation", "--model", str(folder / "model"), "--dataset", str(folder)]
    argv += ["--class_names", "none", "ink"]
    changed = Image.new("L", (32, 32), 0)
    changed.putpixel((1, 1), 1)
    return argv, lambda: changed.save(folder / "annotations" / "training" / "1.png")


@pytest.mark.parametrize("make, what", [(detection, "boxes"), (segmentation, "maps")])
def test_no_other_boxes_or_maps_or_detectors_or_segmenters_are_gone_on_with(make, what, tmp_path):
    (tmp_path / "given").mkdir()
    argv, change = make(tmp_path / "given")
    goes_on = begun([*argv, "--output_dir", str(tmp_path / "run")])
    prepare("prepare_training", goes_on)
    change()
    change_weights(tmp_path / "given" / "model")
    with pytest.raises(ValueError, match=f"the {what} of the training data; .*the weights of the model"):
        prepare("prepare_training", goes_on)


def test_a_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 10)
    assert fingerprint([tmp_path / "a"]) == fingerprint([tmp_path / "b"]) != fingerprint([b"x" * 10])
    (tmp_path / "b").write_bytes(b"x" * 9 + b"y")
    assert fingerprint([tmp_path / "a"]) != fingerprint([tmp_path / "b"])
    assert picture({"bytes": None, "path": "p.png"}) == picture("p.png") == Path("p.png")
    assert picture({"bytes": b"1", "path": "p.png"}) == b"1"
    assert facts(2, texts=lambda i: "ab"[i]) == {"samples": 2, "texts": fingerprint(["a", "b"])[:16]}


@pytest.mark.parametrize("place", ["beginning", "middle", "end"])
def test_of_a_large_file_three_places_count(tmp_path, place):
    size = fingerprints._WHOLE_FILE + 1001
    file = tmp_path / "file"
    file.write_bytes(bytes(size))
    before = fingerprint([file])
    with open(file, "r+b") as opened:
        opened.seek({"beginning": 0, "middle": size // 2, "end": size - 1}[place])
        opened.write(b"\1")
    assert fingerprint([file]) != before
    file.write_bytes(bytes(size + 1))
    assert fingerprint([file]) != before


def test_weights_are_known_by_each_of_them():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(model) and len(before["weights"]) == 16
    seen = {before["weights"]}
    for weight in model.state_dict(keep_vars=True).values():
        weight.data.view(-1)[-1] += 1
        seen.add(weights_fingerprint(model)["weights"])
    assert len(seen) == 1 + len(model.state_dict())
    assert weights_fingerprint(model.half()) != weights_fingerprint(model.float()), "the precision counts"
    frozen = weights_fingerprint(model, lambda name, weight: name == "0.bias")
    model[0].weight.data += 1
    assert weights_fingerprint(model, lambda name, weight: name == "0.bias") == frozen
    assert weights_fingerprint(torch.nn.Linear(2, 2, device="meta")) == {}
    model.register_buffer("empty", torch.zeros(0, 3))
    assert weights_fingerprint(model) not in ({}, before)


def test_a_file_that_cannot_be_read_and_samples_of_several_things_have_fingerprints_too(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    lost, there = fingerprint([tmp_path / "lost"]), fingerprint([tmp_path / "a"])
    assert lost == fingerprint([tmp_path / "gone"]) != there  # its name is no content; who reads it says that it lacks
    boxes = [[{"box": [1, 2], "name": "a"}, {"box": [3, 4], "name": "b"}]]
    again = [[{"name": "a", "box": [1, 2]}, {"name": "b", "box": [3, 4]}]]
    assert fingerprint(boxes) == fingerprint(again)
    for place, key, value in ((0, "box", [1, 3]), (1, "box", [3, 5]), (1, "name", "c")):
        again[0][place] = {**boxes[0][place], key: value}
        assert fingerprint(boxes) != fingerprint(again)
        again[0][place] = boxes[0][place]
    # Lists of several lengths, too: where one ends counts.
    ways = [[1, 2], [3]], [[1], [2, 3]], [[1], [2, 3], []], [[1, 2, 3]], [None, [1, 2, 3]], [[1, 2, 3], None]
    ways += (["a", ["b", "c"]], ["a", "b", ["c"]], [1, 2, 3, 4], [[1, 2], [3, 4]])
    assert len({fingerprint([way]) for way in ways}) == len(ways)
    # The same whole numbers are the same, however they are held; of many samples their number counts, too.
    kinds = [1, 2], np.array([1, 2], dtype=np.uint8), torch.tensor([1, 2], dtype=torch.int32)
    assert len({fingerprint([kind]) for kind in kinds}) == 1
    assert fingerprint([0] * 3000) != fingerprint([0] * 3001)
