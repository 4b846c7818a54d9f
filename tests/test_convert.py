"""Official checkpoints become models, or a clear error and nothing at all."""

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_effmodels.cli import main
from hf_effmodels.hub.convert import ConversionError, convert, read_checkpoint

from .parity import golden

CASES = Path(__file__).parent / "parity" / "cases"
PIXELS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    """The official layout of GhostNetV3 0.5x as trained, in float32."""
    return golden.state_dict(golden.load(CASES / "ghostnetv3" / "w050_96.json"), torch.float32)


@pytest.fixture(scope="module")
def expected(official, tmp_path_factory) -> torch.Tensor:
    folder = tmp_path_factory.mktemp("plain")
    torch.save(official, folder / "official.pth")
    convert("ghostnetv3-0.5x", folder / "official.pth", folder / "out")
    return logits(folder / "out")


@torch.no_grad()
def logits(folder) -> torch.Tensor:
    return AutoModelForImageClassification.from_pretrained(folder)(PIXELS).logits


def as_timm(weights: dict) -> dict:
    """timm's names of the same network: its batch norms inside the ghost modules are called bn1."""
    return {name.replace(".bn.", ".bn1."): value for name, value in weights.items()}


@pytest.mark.parametrize(
    "layout",
    ["safetensors", "timm", "module prefix", "profiling counters", "training checkpoint", "averaged weights"],
)
def test_every_layout_gives_the_same_model(layout, official, expected, tmp_path):
    path = tmp_path / ("official.safetensors" if layout == "safetensors" else "official.pth.tar")
    if layout == "safetensors":
        save_file(official, path)
    else:
        other = {name: torch.zeros_like(value) for name, value in official.items()}
        counters = {"total_ops": torch.zeros(1), "blocks.3.0.se.gate_fn.total_params": torch.zeros(1)}
        leftovers = {"args": argparse.Namespace(lr=0.1), "metric": np.float64(77.1), "epoch": 599}
        content = {
            "timm": as_timm(official),
            "module prefix": {f"module.{name}": value for name, value in official.items()},
            "profiling counters": official | counters,
            "training checkpoint": {"state_dict": official | counters, **leftovers},
            "averaged weights": {"state_dict": other, "state_dict_ema": official, **leftovers},
        }[layout]
        torch.save(content, path)
    report = convert("ghostnetv3-0.5x", path, tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), expected)
    assert report.converted == len(official)
    assert report.entry == {
        "training checkpoint": "state_dict",
        "averaged weights": "state_dict_ema",
    }.get(layout, "the file itself")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert (processor.crop_pct, processor.resample) == (0.875, 3)
    assert report.sha256 in (tmp_path / "out" / "README.md").read_text()


def test_the_officially_fused_layout_loads_folded(tmp_path):
    case = golden.load(CASES / "ghostnetv3" / "w100_fused_128.json")
    torch.save(golden.state_dict(case, torch.float32), tmp_path / "fused.pth")
    assert convert("ghostnetv3-1.0x", tmp_path / "fused.pth", tmp_path / "out").reparameterized
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        difference = golden.difference(
            case["outputs"]["logits"], model(golden.inputs(case, torch.float32)["pixel_values"]).logits
        )
    assert difference < 1e-4
    weights = golden.state_dict(case, torch.float32)
    del weights["bn1.bias"], weights["blocks.9.0.conv.weight"]
    torch.save(weights, tmp_path / "incomplete.pth")
    with pytest.raises(ConversionError, match=r"missing: .*final\.conv\.weight"):
        convert("ghostnetv3-1.0x", tmp_path / "incomplete.pth", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("generation", ["ghostnet", "ghostnetv2"])
def test_earlier_generations_convert(generation, tmp_path):
    case = golden.load(CASES / generation / "w100_224.json")
    torch.save(golden.state_dict(case, torch.float32), tmp_path / "official.pth")
    convert(f"{generation}-1.0x", tmp_path / "official.pth", tmp_path / "out")
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.model_type == generation


def test_wrong_preset_is_refused_with_the_one_that_fits(official, tmp_path):
    torch.save(official, tmp_path / "official.pth")
    with pytest.raises(ConversionError, match=r"of another shape: .*It fits 'ghostnetv3-0\.5x'\."):
        convert("ghostnetv3-1.0x", tmp_path / "official.pth", tmp_path / "out")
    with pytest.raises(ConversionError, match=r"missing: .*unexpected: .*It fits 'ghostnetv3-0\.5x'\."):
        convert("ghostnet-0.5x", tmp_path / "official.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_entries_missing_superfluous_or_fine_tuned_are_named(official, tmp_path):
    path, out = tmp_path / "official.pth", tmp_path / "out"
    torch.save({name: value for name, value in official.items() if name != "conv_stem.weight"}, path)
    with pytest.raises(ConversionError, match=r"1 missing: .*stem\.convolution\.conv\.weight.* fits no preset"):
        convert("ghostnetv3-0.5x", path, out)
    torch.save(official | {"extra.weight": torch.zeros(3)}, path)
    with pytest.raises(ConversionError, match=r"1 unexpected: extra\.weight"):
        convert("ghostnetv3-0.5x", path, out)
    head = {"classifier.weight": torch.zeros(10, 1280), "classifier.bias": torch.zeros(10)}
    torch.save(official | head, path)
    with pytest.raises(ConversionError, match="It fits 'ghostnetv3-0.5x' with num_labels=10"):
        convert("ghostnetv3-0.5x", path, out)
    assert not out.exists()
    convert("ghostnetv3-0.5x", path, out, num_labels=10)
    assert logits(out).shape == (1, 10)


class Boom:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_files_that_are_no_checkpoints_are_refused(official, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(official, "whole.pth")
    whole = Path("whole.pth").read_bytes()
    Path("truncated.pth").write_bytes(whole[: len(whole) // 2])
    Path("empty.pth").write_bytes(b"")
    Path("noise.safetensors").write_bytes(b"\x00" * 100)
    torch.save({"state_dict": official, "callback": Boom()}, "code.pth")
    Path("pickle.pth").write_bytes(pickle.dumps({"w": Boom()}))
    torch.save([1, 2], "list.pth")
    torch.save({"w": "text"}, "text.pth")
    for name, error, message in (
        ("missing.pth", FileNotFoundError, "there is no file missing.pth"),
        ("truncated.pth", OSError, "truncated"),
        ("empty.pth", OSError, "truncated"),
        ("noise.safetensors", OSError, "truncated or no safetensors"),
        ("code.pth", ValueError, "would run code"),
        ("pickle.pth", (ValueError, OSError), "would run code|no PyTorch file"),
        ("list.pth", ValueError, "holds a list"),
        ("text.pth", ValueError, "no dictionary of tensors"),
    ):
        with pytest.raises(error, match=message):
            convert("ghostnetv3-0.5x", name, "out")
    assert not Path("boom").exists()
    assert not Path("out").exists()
    with pytest.raises(ValueError, match="entry: whole.pth has no entry 'model'"):
        read_checkpoint("whole.pth", entry="model")


def test_command_line_converts_and_explains(official, tmp_path, capsys):
    torch.save(official, tmp_path / "official.pth")
    command = ["convert", "ghostnetv3-0.5x", str(tmp_path / "official.pth"), str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["converted"] == len(official)
    assert main(["convert", "ghostnet-9x", "a", "b"]) == 2
    assert capsys.readouterr().err.startswith("hf-effmodels: error: unknown preset 'ghostnet-9x'")
    assert main(["list", "ghostnetv3*"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["ghostnetv3-0.5x", "3.40", "117.5"]
    assert main(["info", "ghostnetv3-1.0x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folded_macs"] == 167.0
