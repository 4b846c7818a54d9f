"""What a call is of: of small networks and of stand-ins, which say what they were given."""

import json
import types

import pytest
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    RTDetrImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from hf_effmodels import create_model, edge, edge_language
from hf_effmodels.benchmarking import places, runs, workloads
from hf_effmodels.benchmarking.counting import count_preset
from hf_effmodels.benchmarking.places import channels_of, count_place, load, side_of, task_of_place
from hf_effmodels.benchmarking.runs import Row, summarize
from hf_effmodels.benchmarking.workloads import make_call

ROW = {"peer": "ours", "backend": "eager", "mode": "infer", "batch": 2, "image_size": 8, "channels": 3, "threads": 2}


class Said(nn.Module):
    """Keeps what it is given; its outputs are of one weight."""

    def __init__(self, **config):
        super().__init__()
        self.weight, self.given = nn.Parameter(torch.ones(3)), []
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.config = types.SimpleNamespace(**config)

    def forward(self, *images, **inputs):
        self.given.append((*images, inputs))
        loss = self.weight.square().sum() + self.frozen.sum()
        return types.SimpleNamespace(loss=loss, logits=loss * 2, pred_masks=self.weight * 3)


def test_a_segmenter_is_timed_forwards_and_on_a_label_for_each_pixel():
    model = Said(num_labels=5)
    found = make_call(model, {**ROW, "preset": "dtop-base-ade20k"})()
    assert found.logits == 8 and not found.logits.requires_grad and model.given[0][0].shape == (2, 3, 8, 8)
    make_call(model, {**ROW, "preset": "dtop-base-ade20k", "mode": "train"})()
    labels = model.given[-1][-1]["labels"]
    assert labels.shape == (2, 8, 8) and labels[1].flatten().tolist() == [n % 5 for n in range(64)]
    assert model.training and model.weight[0] < 1 and model.frozen == 1


def test_a_promptable_model_is_asked_for_what_lies_in_the_middle_of_each_image():
    model = Said()
    found = make_call(model, {**ROW, "preset": "tinysam"})()
    assert found.tolist() == [3, 3, 3] and not found.requires_grad
    given = model.given[0][-1]
    assert given["pixel_values"].shape == (2, 3, 8, 8) and given["input_points"].tolist() == [[[[4.0, 4.0]]]] * 2
    make_call(model, {**ROW, "preset": "tinysam", "mode": "train"})()
    assert model.weight[0] < 1


@pytest.mark.parametrize(
    ("preset", "name"),
    [("dtop-base-ade20k", "pixel_values"), ("gold-yolo-n", "pixel_values"), ("vanillanet-5", "pixel_values")],
)
def test_a_network_of_images_runs_as_the_program_that_it_is_exported_to(preset, name, monkeypatch):
    seen = []

    def export(model, folder, format, image_size):
        seen.append((type(model), folder, format, image_size))

    def opened(folder, device, config):
        assert folder == seen[0][1]
        seen.append((device, config))
        return lambda **inputs: inputs

    monkeypatch.setattr(edge, "export", export)
    monkeypatch.setattr(edge, "load", opened)
    monkeypatch.setattr(edge_language, "is_language_model", lambda config: False)
    monkeypatch.setattr(edge_language, "is_exported_language_model", lambda folder: False)
    for backend, hints in (("openvino", {"INFERENCE_PRECISION_HINT": "f32"}), ("openvino-default", {})):
        seen.clear()
        found = make_call(Said(), {**ROW, "preset": preset, "backend": backend})()
        assert list(found) == [name] and found[name].shape == (2, 3, 8, 8)
        assert (seen[0][0], *seen[0][2:]) == (Said, "openvino", 8)
        assert seen[1] == ("cpu", {"INFERENCE_NUM_THREADS": 2, **hints})
    with pytest.raises(ValueError, match="^--backends: onnx runs our models, not timm's.$"):
        make_call(Said(), {**ROW, "preset": preset, "backend": "onnx", "peer": "timm"})


@pytest.mark.parametrize("program", [None, "onnx"])
def test_a_folders_network_is_exported_and_its_program_runs_as_it_is(program, monkeypatch):
    exported = []
    monkeypatch.setattr(workloads, "is_place", lambda name: True)
    monkeypatch.setattr(workloads, "program_format", lambda name: program)
    monkeypatch.setattr(edge, "export", lambda model, folder, format, image_size: exported.append((folder, format)))
    monkeypatch.setattr(edge_language, "is_language_model", lambda config: False)
    monkeypatch.setattr(workloads, "_opened", lambda folder, row: folder)
    opened = workloads._exported(Said(), {**ROW, "preset": "a/folder", "backend": "onnx"})
    assert (exported, opened) == ([], "a/folder") if program else exported == [(opened, "onnx")]


def test_a_program_of_onnx_runs_on_as_many_threads_as_it_is_given(monkeypatch):
    given = {}
    monkeypatch.setattr(edge, "load", lambda folder, **options: given.update(options, folder=folder))
    monkeypatch.setattr(edge_language, "is_exported_language_model", lambda folder: False)
    workloads._opened("edge", {"backend": "onnx", "threads": 3})
    assert given["session_options"].intra_op_num_threads == 3 and given["folder"] == "edge"
    monkeypatch.setattr(edge_language, "is_exported_language_model", lambda folder: True)
    monkeypatch.setattr(edge_language, "load_language_model", lambda folder, **options: (folder, options))
    assert workloads._opened("edge", {"backend": "openvino-default", "threads": 1}) == (
        "edge", {"device": "cpu", "config": {"INFERENCE_NUM_THREADS": 1}}
    )  # fmt: skip


def test_a_language_model_reads_or_writes_as_the_program_that_it_is_exported_to(monkeypatch):
    program = Said()
    program.generate = lambda **given: given
    monkeypatch.setattr(workloads, "_exported", lambda model, row: program)
    row = {**ROW, "preset": "pangu-pi-15m", "backend": "onnx", "length": 6, "new_tokens": 4}
    make_call(Said(vocab_size=9), row)()
    (ids, given) = program.given[0]
    assert (
        ids.shape == (2, 6) and given == {"use_cache": True, "logits_to_keep": 1} and 3 <= ids.min() <= ids.max() < 9
    )
    written = make_call(Said(vocab_size=9), {**row, "mode": "generate"})()
    assert (written["max_new_tokens"], written["min_new_tokens"], written["do_sample"]) == (4, 4, False)
    assert written["input_ids"].shape == (2, 6) and written["attention_mask"].eq(1).all()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_channels": 2}
    ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3)).save_pretrained(folder / "resnet")
    sizes = {"num_encoder_blocks": 1, "depths": [1], "sr_ratios": [1], "hidden_sizes": [8], "patch_sizes": [3]}
    sizes |= {"strides": [2], "num_attention_heads": [1], "mlp_ratios": [1], "decoder_hidden_size": 8}
    SegformerForSemanticSegmentation(SegformerConfig(**sizes, num_labels=4)).save_pretrained(folder / "segformer")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    for name, kind in (("masked", BertForMaskedLM), ("bert", BertForSequenceClassification)):
        kind(BertConfig(**sizes, vocab_size=9)).save_pretrained(folder / name)
    return folder


def test_a_folder_is_for_what_its_model_does_or_is_told_what_that_is(folders):
    assert task_of_place(str(folders / "resnet")) == "image-classification"
    assert task_of_place(str(folders / "segformer")) == "image-segmentation"
    accepted = "accepted are models for image-classification, object-detection, image-segmentation, text-generation"
    with pytest.raises(ValueError, match=f"^--presets: .*/bert is for text-classification; {accepted}.$"):
        task_of_place(str(folders / "bert"))
    with pytest.raises(ValueError, match=f"/masked is for no task that is known; {accepted}.$"):
        task_of_place(str(folders / "masked"))


def test_a_segmenter_of_a_folder_runs(folders):
    name = str(folders / "segformer")
    found = make_call(load(name, False), {**ROW, "preset": name, "image_size": 16})()
    assert found.logits.shape[:2] == (2, 4)


def test_a_folders_multiply_adds_are_counted_on_images_of_its_channels(folders):
    name = str(folders / "resnet")
    row = Row(preset=name, peer="ours", backend="eager", batch=1, threads=1, mode="infer", folded=False, image_size=32)
    ready, run = {"parameters": 1, "allocated_bytes": None}, {"seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 1}
    assert summarize(row, [run], [run], ready).macs == count_place(name, False, 32).macs > 0
    assert runs.is_place(name) and not runs.is_place("vanillanet-5")
    assert runs.is_place("somebody/model-of-the-hub") and not runs.is_place("nowhere")


def test_a_folders_multiply_adds_are_those_of_the_network_that_runs_folded_or_not(tmp_path):
    """As of the preset with the same sizes."""
    sizes = {"num_labels": 3, "hidden_sizes": [8, 12], "strides": [2]}
    create_model("vanillanet-5", **sizes, image_size=32).save_pretrained(tmp_path)
    ready, run = {"parameters": 1, "allocated_bytes": None}, {"seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 1}
    found = {}
    for folded in (False, True):
        for side in (32, 64):
            row = Row(str(tmp_path), "ours", "eager", batch=1, threads=1, mode="infer", folded=folded, image_size=side)
            found[folded, side] = summarize(row, [run], [run], ready).macs
            assert (
                found[folded, side]
                == count_preset("vanillanet-5", folded=folded, image_size=side, overrides=sizes).macs
            )
    assert found[True, 32] < found[False, 32] < found[False, 64]


def test_images_have_the_channels_of_the_part_that_sees_them_and_three_where_nothing_says():
    vision, backbone = types.SimpleNamespace(num_channels=4), types.SimpleNamespace(num_channels=2)
    assert channels_of(types.SimpleNamespace(num_channels=1, vision_config=vision)) == 1
    assert channels_of(types.SimpleNamespace(backbone_config=backbone, vision_config=vision)) == 2
    assert channels_of(types.SimpleNamespace(backbone_config=None, vision_config=vision)) == 4
    assert channels_of(types.SimpleNamespace()) == 3


@pytest.mark.parametrize(
    ("processor", "side"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 48, "width": 40}, "size": {"shortest_edge": 64}}, [48, 40]),
        ({"do_center_crop": False, "crop_size": {"height": 48, "width": 48}, "size": {"shortest_edge": 64}}, [64]),
        ({"size": {"height": 32, "width": 24}}, [32, 24]),
        ({"size": {"longest_edge": 32}}, 224),
        ({"size": None}, 224),
    ],
)
def test_the_side_of_images_is_of_the_crop_or_of_the_resizing(processor, side, monkeypatch):
    found = types.SimpleNamespace(**processor)
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda name: found)
    assert side_of("here", ResNetConfig()) == side
    assert side_of("here", types.SimpleNamespace(image_size=[8, 8])) == [8, 8]


def test_a_program_or_a_network_of_few_bits_is_not_trained(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    monkeypatch.setattr(workloads, "task_of", lambda preset: "image-classification")
    kinds = iter([None, "cbq", "bitlinear"])
    monkeypatch.setattr(workloads, "quantizer_of", lambda config: next(kinds))
    monkeypatch.setattr(workloads, "TRAINABLE", ("bitlinear",))
    found = [workloads.modes(str(tmp_path)) for _ in range(3)]
    assert found == [("infer", "train"), ("infer",), ("infer", "train")]
    assert places.is_foldable(types.SimpleNamespace(reparameterized=False))
    assert not places.is_foldable(types.SimpleNamespace(reparameterized=True))
    assert not places.is_foldable(types.SimpleNamespace())


@pytest.mark.parametrize("place", [False, True])
def test_detection_goes_by_the_processor_of_the_model_that_runs(place, monkeypatch):
    own = RTDetrImageProcessorPil(size={"height": 16, "width": 16})
    monkeypatch.setattr(workloads, "is_place", lambda preset: place)
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda preset: own)
    seen = []
    monkeypatch.setattr(
        own, "post_process_object_detection", lambda outputs, **given: seen.append((outputs, given)) or ["boxes"]
    )
    monkeypatch.setattr(workloads, "RTDetrImageProcessorPil", lambda size: seen.append(size) or own)
    row = {**ROW, "preset": "gold-yolo-n", "mode": "detect"}
    assert workloads._detection(Said(model_type="rt_detr"), row)() == ["boxes"]
    assert seen[0] == {"height": 8, "width": 8} or place
    assert seen[-1][1] == {"threshold": 0.4, "target_sizes": [(480, 640)] * 2}


def test_what_has_no_folded_form_or_takes_no_images_is_not_counted():
    with pytest.raises(ValueError, match=r"^devit-s \(DeViT\) has no folded form.$"):
        count_preset("devit-s", folded=True)
    with pytest.raises(ValueError, match="^pangu-pi-15m .* takes text: models for images are counted.$"):
        count_preset("pangu-pi-15m")
    square, flat = (count_preset("vanillanet-5", overrides={"image_size": size}) for size in ([64, 64], [64, 32]))
    assert square.parameters == flat.parameters and 1.8 < square.macs / flat.macs < 2.2


def test_a_language_model_is_exported_as_one(monkeypatch):
    seen = []

    def export(model, folder, format):
        seen.append((type(model), folder, format))

    monkeypatch.setattr(edge_language, "export_language_model", export)
    monkeypatch.setattr(edge_language, "is_language_model", lambda config: True)
    monkeypatch.setattr(workloads, "_opened", lambda folder, row: (folder, row["backend"]))
    for backend, format in (("onnx", "onnx"), ("openvino-default", "openvino")):
        row = {**ROW, "preset": "pangu-pi-15m", "backend": backend}
        assert workloads._exported(Said(), row) == (seen[-1][1], backend)
        assert (seen[-1][0], seen[-1][2]) == (Said, format)
