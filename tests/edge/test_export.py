"""Exported programs give PyTorch's numbers and run where a user runs them."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

import hf_effmodels
from hf_effmodels import edge, edge_formats
from hf_effmodels.cli import main
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config

#: Those of two halves are two graphs: test_halves.py.
VISION = [a for a in ARCHITECTURES.values() if "AutoModelForImageClassification" in a.auto_classes and not a.in_halves]


#: An export takes seconds for each block: of GhostNets one of each kind, of ViG's stages one.
STAGES = (((3, 8, 8, 0, 1),), ((5, 24, 16, 0.25, 2), (3, 32, 16, 0.25, 1)))
BLOCKS = {"ghostnet": {"stages": STAGES}, "parameternet": {"stages": STAGES}, "vig": {"depths": [1, 1]}}


def tiny(architecture):
    torch.manual_seed(1)
    blocks = BLOCKS.get(architecture.name, {})
    config = tiny_config(architecture, id2label={0: "cat", 1: "dog", 2: "bird"}, **blocks)
    return architecture.model_class("AutoModelForImageClassification")(config).eval()


# Every architecture through ONNX; through OpenVINO, which reads the same exported program, those of other operators.
# Each takes seconds: by default those with operators of their own (a graph, binary weights).
OFTEN = {("ghostnetv3", "onnx"), ("ghostnetv3", "openvino"), ("vig", "onnx"), ("adabin", "onnx")}
BINARY = ("adabin", "addernet", "bimlp")
PROGRAMS = [
    pytest.param(a, format, marks=() if (a.model_type, format) in OFTEN else pytest.mark.thorough)
    for a, format in [(a, "onnx") for a in VISION]
    + [(ARCHITECTURES[name], "openvino") for name in ("ghostnetv3", "vanillanet", "parameternet", "vig", *BINARY)]
]


@pytest.mark.parametrize("architecture, format", PROGRAMS, ids=lambda v: getattr(v, "model_type", v))
def test_programs_run_any_batch_and_in_the_pipeline(architecture, format, tmp_path, caplog):
    model = tiny(architecture)
    preset = next(iter(architecture.presets))
    processor = hf_effmodels.create_image_processor(preset, image_size=64)
    report = edge.export(model, tmp_path / "out", format, processor=processor)
    assert report.difference <= 1e-4
    assert report.batches == (1, 3)
    assert not getattr(model.config, "reparameterized", False), "the caller's model was folded"
    program = edge.load(tmp_path / "out")
    pixels = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program(pixel_values=pixels).logits, model(pixels).logits, rtol=1e-3, atol=1e-4)
    classify = pipeline(
        "image-classification", model=program, image_processor=AutoImageProcessor.from_pretrained(tmp_path / "out")
    )
    assert {answer["label"] for answer in classify(Image.new("RGB", (90, 70)))} == {"cat", "dog", "bird"}
    assert "not supported" not in caplog.text


def test_executorch_runs_where_it_is_installed(tmp_path):
    pytest.importorskip("executorch", reason="not part of the tests' environment: it brings many packages")
    assert edge.export(tiny(VISION[0]), tmp_path / "out", "executorch", image_size=64).difference <= 1e-4


def test_command_line_exports_a_saved_model(tmp_path, capsys):
    model = tiny(ARCHITECTURES["ghostnetv3"]).reparameterize()
    model.save_pretrained(tmp_path / "model")
    hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_size=48).save_pretrained(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "onnx", "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["image_size"] == [48, 48]
    assert report["folded"]
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err


def test_what_cannot_be_exported_leaves_nothing_behind(tmp_path, monkeypatch):
    model = tiny(ARCHITECTURES["ghostnet"])
    with pytest.raises(ValueError, match="format: got 'coreml', accepted are 'onnx', 'openvino', 'executorch'"):
        edge.export(model, tmp_path / "out", "coreml")
    with pytest.raises(ValueError, match="differ from PyTorch's by"):
        edge.export(model, tmp_path / "out", "onnx", tolerance=1e-12)
    monkeypatch.setitem(
        edge_formats.FORMATS, "onnx", edge_formats.Format("OnnxExporter", "OnnxConfig", ("onnx", "no_such"), {})
    )
    with pytest.raises(ImportError, match="needs no_such: pip install no_such"):
        edge.export(model, tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []
