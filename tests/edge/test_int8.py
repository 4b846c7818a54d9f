"""Programs of 8-bit integers: smaller, calibrated on pictures, and held against PyTorch on others."""

import json
import logging
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import hf_effmodels
from hf_effmodels import edge, edge_int8
from hf_effmodels.cli import main
from hf_effmodels.edge_files import summed_up
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of four colours."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(12):
        colour = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]])[number % 4]
        noise = rng.integers(-30, 30, (70, 60, 3))
        Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(1)
    architecture, folder = ARCHITECTURES["ghostnet"], tmp_path_factory.mktemp("model")
    config = tiny_config(architecture, id2label={0: "cat", 1: "dog", 2: "bird"})
    architecture.model_class("AutoModelForImageClassification")(config).save_pretrained(folder)
    hf_effmodels.create_image_processor("ghostnet-1.0x", image_size=48).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model_folder, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    whole = edge.export(str(model_folder), folder / "float32", "onnx")
    small = edge.export(str(model_folder), folder / "int8", "onnx", precision="int8", calibration=pictures)
    return folder, whole, small


def test_integers_are_in_the_graph_and_the_answers_near(exported, model_folder, pictures):
    import onnx

    folder, whole, small = exported
    assert (whole.precision, whole.agreement) == ("float32", None) and small.precision == "int8"
    assert 1e-5 < small.difference < 0.5  # really other numbers, and not by much
    graph = onnx.load(folder / "int8" / "model.onnx").graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.INT8 in kinds and "DequantizeLinear" in {node.op_type for node in graph.node}
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    scales = [sizes[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert any(size and size[0] > 1 for size in scales), "weights have a scale for each channel"
    # The agreement by hand, on every fourth picture.
    model, processor = edge.load_source(str(model_folder))
    program = edge.load(folder / "int8")
    same = []
    for file in sorted(pictures.iterdir())[3::4]:
        pixels = processor(Image.open(file), return_tensors="pt").pixel_values
        with torch.no_grad():
            same.append(int(model(pixels).logits.argmax()) == int(program(pixel_values=pixels).logits.argmax()))
    assert small.agreement == sum(same) / 3
    pixels = torch.randn(5, 3, 48, 48)
    assert program(pixel_values=pixels).logits.shape == (5, 3)


def test_every_fourth_picture_is_kept_for_the_check_and_no_other_is(pictures):
    processor = hf_effmodels.create_image_processor("ghostnet-1.0x", image_size=48)
    files = sorted(pictures.iterdir())
    prepared = edge_int8.prepare(files, processor, 3, (48, 48))
    pixels = [processor(Image.open(file), return_tensors="pt").pixel_values for file in files]
    for found, numbers in ((prepared.checking, (3, 7, 11)), (prepared.calibrating, (0, 1, 2, 4, 5, 6, 8, 9, 10))):
        assert len(found) == len(numbers)
        for one, number in zip(found, numbers, strict=True):
            torch.testing.assert_close(one, pixels[number])


def test_a_program_is_one_file_with_a_readme_that_tells_how_to_run_it(
    exported, pictures, tmp_path, capsys, monkeypatch
):
    folder, whole, _ = exported
    names = {path.name for path in (folder / "float32").iterdir()}
    assert names - {"model.onnx.data"} == {
        "model.onnx",
        "config.json",
        "preprocessor_config.json",
        "export.json",
        "README.md",
    }
    assert (folder / "float32" / "model.onnx.data").stat().st_size == 0  # what transformers' loader looks for
    shutil.copy(folder / "float32" / "model.onnx", tmp_path / "alone.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "alone.onnx")
    (alone,) = session.run(None, {"pixel_values": np.ones((2, 3, 48, 48), dtype=np.float32)})
    beside = edge.load(folder / "float32")(pixel_values=torch.ones(2, 3, 48, 48)).logits
    np.testing.assert_allclose(alone, beside.numpy(), rtol=1e-5, atol=1e-6)
    assert whole.bytes == (folder / "float32" / "model.onnx").stat().st_size > 1000
    readme = (folder / "int8" / "README.md").read_text()
    assert "hf-effmodels predict . photo.jpg" in readme and "(int8) of images of 48 x 48 pixels" in readme
    # Integers are judged by the classes alone; without pictures there is the difference alone.
    assert "\nOf 3 pictures " in readme and "differ" not in readme
    monkeypatch.chdir(shutil.copytree(folder / "float32", tmp_path / "copy"))
    plain = Path("README.md").read_text()
    shutil.copy(pictures / "00.png", "photo.jpg")
    exec(plain.partition("```python\n")[2].partition("```")[0], {})  # the snippet predicts as it stands
    assert capsys.readouterr().out.strip() in edge.load(folder / "float32").config.id2label.values()
    assert f"\nIts outputs differ from PyTorch's by {whole.difference:.1e} (of logits: of their standard" in plain
    assert "(float32)" in plain and "pictures" not in plain
    assert main(["predict", str(folder / "int8"), str(pictures / "00.png"), "--json"]) == 0
    assert {c["label"] for c in json.loads(capsys.readouterr().out)["classes"]} == {"cat", "dog", "bird"}


@pytest.mark.thorough
def test_the_command_takes_a_folder_and_refuses_what_does_not_agree(
    model_folder, pictures, tmp_path, capsys, monkeypatch
):
    command = ["export", str(model_folder), str(tmp_path / "out"), "--format", "onnx"]
    int8 = [*command, "--precision", "int8", "--calibrate", str(pictures)]
    monkeypatch.setattr(edge_int8, "agreement", lambda *_: 0.5)
    assert main(int8) == 2 and not (tmp_path / "out").exists()
    assert (
        "of 3 pictures 50 % get the class that PyTorch gives them, accepted is --min-agreement 0.9"
        in capsys.readouterr().err
    )
    assert main([*int8, "--min-agreement", "0.4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"] == 0.5
    (tmp_path / "broken").mkdir()
    for number in range(8):
        (tmp_path / "broken" / f"{number}.png").write_bytes(
            b"no" if number == 3 else (pictures / "00.png").read_bytes()
        )
    for argv, message in [
        ([*command, "--precision", "int8"], "--calibrate: int8 is calibrated on pictures"),
        (
            [*command, "--calibrate", str(pictures)],
            "--calibrate: pictures go with --precision int8 and --precision float16",
        ),
        (
            [*command, "--precision", "int3"],
            "--precision: got 'int3', accepted are 'float32', 'float16'",
        ),
        ([*int8[:-1], str(tmp_path)], "--calibrate: "),
        ([*command, "--min-agreement", "0.9"], "--min-agreement goes with --calibrate"),
        ([*int8, "--min-agreement", "1.5"], "--min-agreement: got 1.5, accepted are numbers from 0 to 1"),
        ([*int8, "--nms"], "--precision: got 'int8', accepted with --nms is float32"),
        ([*int8[:-1], str(tmp_path / "broken")], f"--calibrate: {tmp_path / 'broken' / '3.png'}: the file is not"),
        ([*int8[:-1], "nowhere"], "--calibrate: there is no folder 'nowhere'"),
        (
            [*command, "--precision", "int4"],
            "--precision: got 'int4', which goes with language models, not with image",
        ),
        (
            [*int8[:4], "openvino", *int8[5:]],
            "--precision: got 'int8', accepted with --format openvino are",
        ),
    ]:
        argv[2] = str(tmp_path / "other")
        assert main(argv) == 2, argv
        assert message in capsys.readouterr().err, argv


def test_warnings_of_exporters_are_told_in_one_line_and_those_of_themselves_are_not(caplog):
    caplog.set_level(logging.INFO)
    with summed_up() as said:
        for text in ("one\nthing", "OnnxExporter is experimental and patches many", "one\nthing"):
            logging.getLogger("torch.onnx.exporter").warning(text)
        logging.getLogger("torch.onnx").warning("torchvision is not installed. Skipping torchvision::nms")
        logging.warning("another")  # noqa: LOG015
        logging.getLogger("transformers").error("a failure")
        warnings.warn("for those who write it", FutureWarning, stacklevel=1)
        warnings.warn("a third", UserWarning, stacklevel=1)
    assert said == ["one thing", "another", "a third"]
    told = [record.getMessage() for record in caplog.records if record.name.startswith("hf_effmodels")]
    assert told == ["the exporters warn: one thing (and 2 more)"]
    logging.getLogger("torch.onnx.exporter").warning("afterwards")
    assert "afterwards" in caplog.text


def test_what_is_less_than_a_warning_and_what_is_ours_goes_by_while_warnings_are_kept_back(caplog):
    library = logging.getLogger("onnxscript.parts")
    for name in (None, library.name, "hf_effmodels.edge"):
        caplog.set_level(logging.DEBUG, name)
    with summed_up() as said:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            library.log(level, "of level %d", level)
        logging.getLogger("hf_effmodels.edge").warning("our own")
    told = [record.getMessage() for record in caplog.records if record.name != "hf_effmodels.edge_files"]
    assert told == ["of level 10", "of level 20", "of level 40", "our own"] and said == ["of level 30"]
