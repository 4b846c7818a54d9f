"""Exported detectors find what the detector finds, with and without suppression in the graph."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    TableTransformerConfig,
    TableTransformerForObjectDetection,
    YolosConfig,
    YolosForObjectDetection,
    pipeline,
)

import hf_effmodels
from hf_effmodels import edge, edge_detection
from hf_effmodels.cli import main
from hf_effmodels.edge_detection import Suppression, export_detector, load_detector
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config

NAMES = {0: "car", 1: "dog", 2: "tree"}


def gold_yolo():
    """A tiny Gold-YOLO that is sure of something."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES["gold_yolo"]
    model = architecture.model_class("AutoModelForObjectDetection")(tiny_config(architecture, id2label=NAMES))
    with torch.no_grad():
        for weight in model.head.parameters():
            if weight.ndim == 4:
                weight.normal_()
            elif weight.max() < -4:
                weight.zero_()  # scores begin at 0.01
    return model.eval()


def photograph(seed=0, width=130, height=90):
    drawn = np.random.default_rng(seed).integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(drawn).resize((width, height))


# 96 is no multiple of 64: there pooling does not divide, which the official export gets wrong.
@pytest.mark.parametrize(
    "format, options",
    [
        pytest.param("onnx", {}, marks=pytest.mark.thorough),
        ("onnx", {"multi_label": True, "nms_threshold": 0.2, "threshold": 0.6, "max_detections": 7}),
        pytest.param("openvino", {"class_agnostic": True, "nms_threshold": 0.6}, marks=pytest.mark.thorough),
    ],
)
def test_a_graph_with_suppression_keeps_the_boxes_that_the_processor_keeps(format, options, tmp_path):
    model, processor = gold_yolo(), hf_effmodels.create_image_processor("gold-yolo-n", image_size=96)
    chosen = replace(Suppression(threshold=0.53), **options)  # where nothing is it is 0.5
    report = export_detector(model, tmp_path / "out", format, processor=processor, suppression=chosen)
    assert report.folded and not model.config.reparameterized and report.image_size == (96, 96)
    detect = load_detector(tmp_path / "out")
    images = [photograph(0), photograph(1, 50, 77), photograph(2, 40, 40)]
    with torch.no_grad():
        outputs = model(**processor(images, return_tensors="pt"))
    sizes = [(image.height, image.width) for image in images]
    expected = processor.post_process_object_detection(
        outputs,
        chosen.threshold,
        sizes,
        chosen.nms_threshold,
        multi_label=chosen.multi_label,
        class_agnostic=chosen.class_agnostic,
        max_detections=chosen.max_detections,
    )
    found = detect(images)
    assert sum(map(len, found)) > 5 and len({each["label"] for each in sum(found, [])}) > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert [each["label"] for each in ours] == [NAMES[int(label)] for label in theirs["labels"]]
        np.testing.assert_allclose([each["score"] for each in ours], theirs["scores"], atol=1e-4)
        corners = np.array([list(each["box"].values()) for each in ours]).reshape(-1, 4)
        np.testing.assert_allclose(corners, theirs["boxes"].reshape(-1, 4), atol=1.01)  # whole pixels, cut off
    assert detect(images[0]) == found[0]


def test_a_graph_is_compared_at_a_threshold_in_the_widest_gap_of_the_scores(tmp_path, monkeypatch):
    """Of those that keep some hundreds of boxes: rounding moves no score across it."""
    scores = 0.9 - 1e-5 * torch.arange(3000, dtype=torch.float64)
    scores[:10] += 0.09  # a gap that would keep too few
    scores[901:] -= 0.1
    scores[1200:] -= 0.05
    scores[2000:] -= 0.7  # and one that keeps many
    threshold = 0.9 - 0.009005 - 0.05
    constants = [
        onnx.numpy_helper.from_array(values, name)
        for name, values in (
            ("boxes", np.array([[[0, 0, 1, 1], [2, 2, 3, 3]]], dtype=np.float32)),
            ("most", np.array([9])),
            ("overlap", np.float32([0.5])),
            ("scores", np.array([[[threshold + 1e-3, threshold - 1e-3]]], dtype=np.float32)),
            ("at", np.float32([0.999])),
        )
    ]
    node = onnx.helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "at"], ["kept"])
    given = onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [1])
    kept = onnx.helper.make_tensor_value_info("kept", onnx.TensorProto.INT64, [None, 3])
    drawn = onnx.helper.make_graph([node], "boxes", [given], [kept], constants)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(drawn, opset_imports=opset, ir_version=9), tmp_path / "model.onnx")

    compared = []
    monkeypatch.setattr(edge_detection, "DetectorGraph", lambda model, chosen: lambda pixels: chosen)
    monkeypatch.setattr(edge_detection, "_check_same", lambda got, expected, excused: compared.append((got, expected)))
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    outputs = SimpleNamespace(logits=scores[order].logit()[None])
    graph = SimpleNamespace(model=lambda pixel_values: outputs, suppression=Suppression(nms_threshold=0.3))
    edge_detection._check_at_a_threshold_that_keeps_some(tmp_path / "model.onnx", graph, torch.zeros(1))
    (((found,), chosen),) = compared
    assert found.tolist() == [[0, 0, 0]], "the program is told the threshold, too"
    assert chosen.threshold == pytest.approx(threshold, abs=1e-5) and chosen.nms_threshold == 0.3


@pytest.mark.thorough
def test_a_detector_without_suppression_runs_in_the_pipeline(tmp_path):
    model, processor = gold_yolo(), hf_effmodels.create_image_processor("gold-yolo-n")
    report = edge.export(model, tmp_path / "out", "onnx", processor=processor, image_size=96)
    assert report.difference <= 1e-4 and report.image_size == (96, 96)
    program, beside = edge.load(tmp_path / "out"), AutoImageProcessor.from_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "model")
    beside.save_pretrained(tmp_path / "model")
    asked = {"images": [photograph(0), photograph(1)], "threshold": 0.53}
    ours = pipeline("object-detection", model=program, image_processor=beside)(**asked)
    theirs = pipeline("object-detection", model=str(tmp_path / "model"))(**asked)
    assert len(ours[0]) > 3
    for one, other in zip(sum(ours, []), sum(theirs, []), strict=True):
        assert one["label"] == other["label"] and one["box"] == pytest.approx(other["box"], abs=1)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 6, "num_labels": 3}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
FEED = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
STOCK = {
    "yolos": lambda: YolosForObjectDetection(
        YolosConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
            num_detection_tokens=5, num_labels=3,
        )
    ),
    "detr": lambda: DetrForObjectDetection(
        DetrConfig(
            **SIZES, **HEADS, **FEED, use_timm_backbone=False,
            backbone_config=ResNetConfig(
                hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8, out_features=["stage2"]
            ),
        )
    ),
    "conditional_detr": lambda: ConditionalDetrForObjectDetection(
        ConditionalDetrConfig(
            **SIZES, **HEADS, **FEED, use_timm_backbone=False,
            backbone_config=ResNetConfig(
                hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8, out_features=["stage2"]
            ),
        )
    ),
    "table_transformer": lambda: TableTransformerForObjectDetection(
        TableTransformerConfig(
            **SIZES, **HEADS, **FEED, use_timm_backbone=False,
            backbone_config=ResNetConfig(
                hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8, out_features=["stage2"]
            ),
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "yolos" else pytest.mark.thorough) for name in STOCK]
)
def test_detectors_that_are_not_ours_are_exported_as_well(name, tmp_path):
    torch.manual_seed(0)
    model = STOCK[name]().eval()
    model.save_pretrained(tmp_path / "model")
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    report = edge.export(tmp_path / "model", tmp_path / "out", "onnx", tolerance=1e-3)
    assert report.model == type(model).__name__ and report.batches == (1, 3)
    pixels = torch.randn(2, 3, 64, 64)
    program = edge.load(tmp_path / "out")
    with torch.no_grad():
        expected = model(pixel_values=pixels)
    got = program(pixel_values=pixels)
    assert set(got) == {"logits", "pred_boxes"}
    for key in got:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-3, atol=1e-3)


def test_a_detector_whose_code_fixes_the_batch_size_is_refused_in_words(tmp_path):
    config = RTDetrConfig(
        **SIZES, **FEED, encoder_hidden_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
        decoder_in_channels=[16] * 3, encoder_in_channels=[8, 8, 8], num_feature_levels=3, decoder_n_points=2,
        backbone_config=RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
    )  # fmt: skip
    with pytest.raises(ValueError, match="RTDetrForObjectDetection cannot be exported with a free batch size"):
        edge.export(RTDetrForObjectDetection(config).eval(), tmp_path / "out", "onnx", image_size=64)
    assert not (tmp_path / "out").exists()


def test_the_command_line_suppresses_when_asked(tmp_path, capsys):
    model = gold_yolo()
    model.save_pretrained(tmp_path / "model")
    hf_effmodels.create_image_processor("gold-yolo-n", image_size=64).save_pretrained(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "onnx"]
    assert main([*command, "--threshold", "0.3"]) == 2
    assert "--threshold goes with --nms" in capsys.readouterr().err
    assert main([*command, "--nms", "--threshold", "1.5"]) == 2
    assert "threshold: got 1.5" in capsys.readouterr().err
    assert main([*command, "--nms", "--image-size", "70"]) == 2
    assert "--image-size: got 70×70; " in (said := capsys.readouterr().err) and "multiples of 32" in said
    assert not (tmp_path / "out").exists()
    assert (
        main([*command, "--nms", "--threshold", "0.3", "--max-detections", "5", "--image-size", "96", "--json"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert (report["threshold"], report["max_detections"], report["image_size"]) == (0.3, 5, [96, 96])
    assert report["bytes"] == (tmp_path / "out" / "detector.onnx").stat().st_size and report["warnings"] == []
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "hf-effmodels predict . photo.jpg" in readme and "Scores are above 0.3" in readme
    detect = load_detector(tmp_path / "out")
    assert len(detect(photograph())) == 5 and detect.suppression.threshold == 0.3
    assert detect.image_processor.size == {"height": 96, "width": 96}
    photograph().save(tmp_path / "a.png")
    found = [{"label": b["label"], "score": b["score"], **b["box"]} for b in detect(photograph())]
    limit = found[2]["score"]
    predict = ["predict", str(tmp_path / "out"), str(tmp_path / "a.png"), "--json", "--threshold"]
    assert main([*predict, str(limit)]) == 0
    assert json.loads(capsys.readouterr().out)["boxes"] == [box for box in found if box["score"] >= limit]
    assert main([*predict, "0.2"]) == 2
    assert "--threshold: got 0.2, but this program keeps boxes above 0.3 alone" in capsys.readouterr().err


def test_what_needs_no_suppression_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is nothing to suppress"):
        export_detector(STOCK["yolos"]().eval(), tmp_path / "out", processor=RTDetrImageProcessorPil())
    processor = hf_effmodels.create_image_processor("gold-yolo-n", image_size=64)
    with pytest.raises(ValueError, match="format: got 'coreml', accepted with suppression are 'onnx', 'openvino'"):
        export_detector(gold_yolo(), tmp_path / "out", "coreml", processor=processor)
    with pytest.raises(ValueError, match="call model.eval"):
        export_detector(gold_yolo().train(), tmp_path / "out", processor=processor)
    with pytest.raises(ValueError, match="was not written by export_detector"):
        load_detector(tmp_path)
