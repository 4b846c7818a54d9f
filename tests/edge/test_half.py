"""Programs in half precision: half the bytes, float32 outside, and held against PyTorch before they are there."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

import hf_effmodels
from hf_effmodels import edge
from hf_effmodels.cli import main
from hf_effmodels.registry import ARCHITECTURES

from .test_export import tiny


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny(ARCHITECTURES["vanillanet"]).save_pretrained(folder)
    hf_effmodels.create_image_processor("vanillanet-5", image_size=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("format, precision", [("onnx", "fp16"), ("openvino", "float16")])
def test_a_program_of_half_the_bytes_answers_nearly_the_same(format, precision, model_folder, pictures, tmp_path):
    report = edge.export(str(model_folder), tmp_path / "out", format, precision=precision, calibration=pictures)
    assert report.precision == "float16"
    assert 1e-5 < report.difference < 2e-2  # really numbers of 11 bits
    assert report.agreement in [n / 8 for n in range(9)] and report.agreement >= 0.9
    model, processor = edge.load_source(str(model_folder))
    program = edge.load(tmp_path / "out")
    pixels = processor(Image.open(pictures / "3.png"), return_tensors="pt").pixel_values
    got = program(pixel_values=pixels.repeat(3, 1, 1, 1)).logits
    with torch.no_grad():
        expected = model.eval()(pixels).logits
    assert got.dtype == torch.float32 and got.shape == (3, 3)
    assert (got - expected).abs().max() / expected.std() < 2e-2
    classify = pipeline("image-classification", model=program, image_processor=processor)
    assert len(classify(Image.open(pictures / "3.png"))) == 3
    if format == "onnx":
        import onnx

        kinds = [one.data_type for one in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer if one.dims]
        assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds
    else:
        weights = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.bin"))
        model.reparameterize()
        assert 0 < weights < 3 * sum(one.numel() for one in model.parameters())


def test_what_overflows_is_not_written(model_folder, tmp_path):
    model, processor = edge.load_source(str(model_folder))
    with torch.no_grad():
        [*model.parameters()][-1].add_(1e6)
    with pytest.raises(ValueError, match="differ from PyTorch's by .*, accepted is tolerance=0.02"):
        edge.export(model, tmp_path / "out", "onnx", processor=processor, precision="float16")
    assert not (tmp_path / "out").exists()


def test_what_has_no_such_numbers_says_which_it_has(model_folder, tmp_path, capsys):
    command = ["export", str(model_folder), str(tmp_path / "out")]
    onnx, accepted = ["--format", "onnx", "--precision"], "accepted are 'onnx', 'openvino', 'executorch'"
    for argv, message in [
        ([*onnx, "bf16"], "--precision: got 'bf16', accepted are 'float32', 'float16', 'int8', 'int4', 'fp32'"),
        (["--format", "executorch", "--precision", "fp16"], "executorch"),
        (["--format", "zzz", "--precision", "fp16"], f"--format: got 'zzz', {accepted}"),
        ([*onnx, "fp16", "--nms"], "--precision: got 'fp16', accepted with --nms is float32"),
    ]:
        assert main([*command, *argv]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
