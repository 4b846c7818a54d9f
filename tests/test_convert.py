"""Official checkpoints become models, or a clear error and nothing at all."""

import argparse
import json
import pickle
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_effmodels._checkpoint_files import check_checkpoint
from hf_effmodels.cli import main
from hf_effmodels.hub.checkpoints import read_checkpoint
from hf_effmodels.hub.convert import (
    ConversionError,
    ConversionReport,
    convert,
    convert_state_dict,
    load_checkpoint,
    official_name,
)
from hf_effmodels.registry import ARCHITECTURES

from .modeling.tiny import tiny_config
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


@pytest.fixture
def no_search(monkeypatch):
    """Of a file that does not fit it is not looked up which presets it would fit, which builds dozens of networks."""
    monkeypatch.setattr(sys.modules[convert.__module__], "_fitting_presets", lambda *args, **kwargs: "")


@pytest.fixture
def short_search(monkeypatch):
    """It is looked up among a few architectures only; one test, of a file that fits no preset, looks among all."""
    few = {name: ARCHITECTURES[name] for name in ("tinynet", "ghostnet", "ghostnetv3", "vanillanet")}
    monkeypatch.setattr(sys.modules[convert.__module__], "ARCHITECTURES", few)


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


def test_the_officially_fused_layout_loads_folded(tmp_path, no_search):
    case = golden.load(CASES / "ghostnetv3" / "w100_fused_128.json")
    torch.save(golden.state_dict(case, torch.float32), tmp_path / "fused.pth")
    assert convert("ghostnetv3-1.0x", tmp_path / "fused.pth", tmp_path / "out").reparameterized
    # The licence is that of the official weights where nobody gives another.
    assert "\nlicense: apache-2.0\n" in (tmp_path / "out" / "README.md").read_text()
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


def test_wrong_preset_is_refused_with_the_one_that_fits(official, tmp_path, short_search):
    torch.save(official, tmp_path / "official.pth")
    with pytest.raises(ConversionError, match=r"of another shape: .*It fits 'ghostnetv3-0\.5x'\."):
        convert("ghostnetv3-1.0x", tmp_path / "official.pth", tmp_path / "out")
    with pytest.raises(ConversionError, match=r"missing: .*unexpected: .*It fits 'ghostnetv3-0\.5x'\."):
        convert("ghostnet-0.5x", tmp_path / "official.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_entries_missing_of_a_file_that_fits_no_preset_are_named(official, tmp_path):
    path, out = tmp_path / "official.pth", tmp_path / "out"
    torch.save({name: value for name, value in official.items() if name != "conv_stem.weight"}, path)
    with pytest.raises(ConversionError, match=r"1 missing: .*stem\.convolution\.conv\.weight.* fits no preset"):
        convert("ghostnetv3-0.5x", path, out)
    assert not out.exists()


def test_entries_superfluous_or_fine_tuned_are_named(official, tmp_path, short_search):
    path, out = tmp_path / "official.pth", tmp_path / "out"
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
    assert "none stated: not for redistribution" in (tmp_path / "out" / "README.md").read_text()
    assert main([*command[:3], str(tmp_path / "mit"), "--license", "mit"]) == 0
    assert "\nlicense: mit\n" in (tmp_path / "mit" / "README.md").read_text()
    capsys.readouterr()
    assert main(["convert", "ghostnet-9x", "a", "b"]) == 2
    assert capsys.readouterr().err.startswith("hf-effmodels: error: unknown preset 'ghostnet-9x'")
    assert main(["list", "ghostnetv3*"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["ghostnetv3-0.5x", "3.40", "117.5"]
    assert main(["info", "ghostnetv3-1.0x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folded_macs"] == 167.0


def test_only_dimensions_of_size_1_may_come_or_go(official, tmp_path, no_search):
    """Conversion reshapes 1×1 convolutions into linear layers: no value changes its place by that."""
    name = next(n for n in official if n.endswith("se.conv_reduce.weight"))
    reduce = official[name]
    assert reduce.shape[0] != reduce.shape[1] and reduce.shape[2:] == (1, 1)
    for wrong in (reduce.transpose(0, 1), reduce.flatten()):
        torch.save(official | {name: wrong.contiguous()}, tmp_path / "wrong.pth")
        with pytest.raises(ConversionError, match=r"1 of another shape: blocks.*conv_reduce\.weight"):
            convert("ghostnetv3-0.5x", tmp_path / "wrong.pth", tmp_path / "out")
    torch.save(official | {name: reduce[..., 0, 0]}, tmp_path / "linear.pth")
    convert("ghostnetv3-0.5x", tmp_path / "linear.pth", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(
        next(v for k, v in found.items() if k.endswith("squeeze_excite.reduce.weight")), reduce[..., 0, 0]
    )


STEM = "conv_stem.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: {STEM: w[STEM].to(torch.int8)}, f"{STEM} is of type int8; accepted are dense tensors of float16"),
        (lambda w: {STEM: w[STEM].bool()}, f"{STEM} is of type bool"),
        (lambda w: {STEM: w[STEM].to(torch.int64)}, "1 of another kind: conv_stem.weight .* holds counts"),
        (lambda w: {STEM: w[STEM].to(torch.complex64)}, f"{STEM} is of type complex64"),
        (lambda w: {STEM: w[STEM].to(torch.float8_e4m3fn)}, f"{STEM} is of type float8_e4m3fn"),
        (lambda w: {STEM: w[STEM].to_sparse()}, f"{STEM} is sparse"),
        (lambda w: {STEM: w[STEM].to("meta")}, f"{STEM} is without values"),
        (lambda w: {STEM: w[STEM][:0]}, f"{STEM} is empty"),
        (lambda w: {STEM: torch.quantize_per_tensor(w[STEM], 0.1, 0, torch.qint8)}, f"{STEM} is quantized"),
        (
            lambda w: {STEM: w[STEM].half()},
            r"several types: .*float16 \(1, such as conv_stem.weight\).*one for all",
        ),
        (lambda w: {STEM: torch.tensor(1.0)}, r"1 of another shape: conv_stem.weight .* is \(\), expected"),
        (lambda w: {"classifier.bias": torch.tensor(1.0)}, r"1 of another shape: classifier\.bias"),
        (lambda w: {3: w[STEM]}, "has names that are no texts: 3"),
        (lambda w: {None: w[STEM], ("a",): w[STEM]}, r"has names that are no texts: None, \('a',\)"),
        (lambda w: {STEM: None}, "is no dictionary of tensors; other things in it: .'conv_stem.weight'"),
    ],
)
def test_tensors_of_another_kind_are_named(official, tmp_path, change, message, no_search):
    torch.save(official | change(official), tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=message):
        convert("ghostnetv3-0.5x", tmp_path / "wrong.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_entries_for_one_weight_are_refused(official, tmp_path):
    twice = official | {"stem.convolution.conv.weight": official[STEM]}
    torch.save(twice, tmp_path / "twice.pth")
    with pytest.raises(ConversionError, match="'conv_stem.weight' and 'stem.convolution.conv.weight' are meant"):
        convert("ghostnetv3-0.5x", tmp_path / "twice.pth", tmp_path / "out")
    # Where the architecture's own function renames as well.
    case = golden.load(next((CASES / "vig").glob("vig*ti*.json"), next((CASES / "vig").glob("*.json"))))
    weights = golden.state_dict(case, torch.float32)
    entry = next(n for n in weights if n.startswith("backbone.0.0."))
    architecture = ARCHITECTURES["vig"]
    ours = {"stages.0.blocks.0" + official_name(architecture, entry).removeprefix("backbone.0"): weights[entry]}
    with pytest.raises(ConversionError, match="Two entries are meant for the same weight 'stages.0.blocks.0"):
        convert_state_dict(architecture, architecture.config_class(), weights | ours)


def test_one_weight_under_two_names_is_the_same_in_the_file():
    architecture = ARCHITECTURES["pangu_pi"]
    model = architecture.model_class("AutoModelForCausalLM")(tiny_config(architecture, tie_word_embeddings=True))
    weights = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    assert torch.equal(weights["lm_head.weight"], weights["embed_tokens.weight"])
    convert_state_dict(architecture, model.config, weights)
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    with pytest.raises(ConversionError, match="are one weight in the model, and two different ones in the file"):
        convert_state_dict(architecture, model.config, weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_weights_that_compute_nothing_are_converted_only_on_request(official, tmp_path, value, capsys):
    name = "bn1.running_var" if value == -1 else STEM
    broken = official[name].clone()
    broken.view(-1)[3] = value
    torch.save(official | {name: broken}, tmp_path / "broken.pth")
    command = ["convert", "ghostnetv3-0.5x", str(tmp_path / "broken.pth"), str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    what = "a variance of -1" if value == -1 else f"1 of {broken.numel()} values are not finite"
    assert f"1 broken weights: {name} ({what})" in said and "--allow-broken-weights" in said
    assert not (tmp_path / "out").exists()
    assert main([*command, "--allow-broken-weights"]) == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def zip_of(path: Path, compression=zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)


def test_files_that_would_run_code_are_called_that_and_torchs_advice_is_not_repeated(official, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = {protocol: pickle.dumps({"w": Boom()}, protocol) for protocol in (0, 2, 4, 5)}
    for protocol, pickled in evil.items():
        Path(f"plain{protocol}.pth").write_bytes(pickled)
        zip_of(Path(f"flat{protocol}.pth"), **{"data.pkl": pickled})
        zip_of(Path(f"no_version{protocol}.pth"), **{"archive__data.pkl": pickled})
        zip_of(Path(f"zip{protocol}.pth"), **{"archive__data.pkl": pickled, "archive__version": b"3\n"})
        zip_of(Path(f"deep{protocol}.bin"), zipfile.ZIP_DEFLATED, **{"a__b__weights.pickle": pickled})
    torch.save({"w": Boom()}, "new.pth")
    torch.save({"state_dict": official, "callback": Boom()}, "beside.pth")
    torch.save({"w": Boom()}, "old.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), "module.pth")
    for path in sorted(Path().glob("*.*")):
        with pytest.raises(ValueError, match=rf"{path.name} contains Python objects that would run code \(") as error:
            convert("ghostnetv3-0.5x", path, "out")
        for advice in ("weights_only", "PyTorch 2.6", "arbitrary", "truncated", "safe_globals"):
            assert advice not in str(error.value), path
        assert error.value.__cause__ is None
    assert not Path("boom").exists() and not Path("out").exists()


def test_damage_anywhere_in_a_file_is_found_by_its_checksums(official, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(official, "whole.pth")
    whole = Path("whole.pth").read_bytes()
    at = whole.index(official["classifier.weight"].numpy().tobytes()[:64])
    damaged = bytearray(whole)
    damaged[at + 1000] ^= 1
    Path("bit.pth").write_bytes(damaged)
    for cut in (1, 100, len(whole) // 2, len(whole) - 10):
        Path(f"cut{cut}.pth").write_bytes(whole[:cut])
    Path("zip.pth").write_bytes(b"PK\x03\x04")
    zip_of(Path("photos.pth"), **{"photo.png": b"png"})
    Path("text.pth").write_text("Not found")
    Path("html.pth").write_text("<!DOCTYPE html><title>404</title>")
    for path, message in [
        ("bit.pth", r"damaged: the checksum of whole/data/\d+ in it is wrong"),
        ("photos.pth", "archive, but not"),
    ]:
        with pytest.raises(OSError, match=message):
            read_checkpoint(path)
    for path in [*Path().glob("cut*"), "zip.pth", "text.pth", "html.pth"]:
        with pytest.raises(OSError, match="truncated") as error:
            read_checkpoint(path)
        assert "weights_only" not in str(error.value)
    with pytest.raises(IsADirectoryError, match="is a folder, accepted is a file"):
        read_checkpoint(tmp_path)
    # A file that was written without checksums has none to check.
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(official, "without.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint("without.pth")[0].keys() == official.keys()
    # The same is told without torch, of what torch alone could read.
    torch.save(official, "old.pth", _use_new_zipfile_serialization=False)
    save_file(official, "whole.safetensors")
    for sound in ("whole.pth", "without.pth", "old.pth", "whole.safetensors"):
        check_checkpoint(sound)
    Path("cut.safetensors").write_bytes(Path("whole.safetensors").read_bytes()[:-1])
    for path in [*Path().glob("cut*"), *map(Path, ("bit.pth", "photos.pth", "zip.pth", "text.pth", "html.pth"))]:
        with pytest.raises(OSError, match=f"checkpoint: {path.name} is (truncated|damaged|an archive)"):
            check_checkpoint(path)
    # Whoever mends a file is believed, though it is as long as before.
    Path("bit.pth").write_bytes(whole)
    check_checkpoint("bit.pth")


def test_an_empty_average_is_not_taken_for_the_weights(official, tmp_path):
    torch.save({"state_dict_ema": {}, "state_dict": official}, tmp_path / "empty.pth")
    assert read_checkpoint(tmp_path / "empty.pth")[1] == "state_dict"


def test_of_several_entries_the_first_average_is_read_and_a_prefix_goes_only_where_all_names_have_it(tmp_path):
    entries = ("state_dict", "model", "ema", "ema_state_dict", "model_ema", "state_dict_ema")
    torch.save({entry: {"weight": torch.tensor(float(n))} for n, entry in enumerate(entries)}, tmp_path / "many.pth")
    weights, entry = read_checkpoint(tmp_path / "many.pth")
    assert entry == "state_dict_ema" and weights["weight"] == 5
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "some.pth")
    assert read_checkpoint(tmp_path / "some.pth")[0].keys() == {"module.a", "b"}


def test_the_entry_that_is_named_is_converted_whatever_counts_lie_beside_its_weights(tmp_path, monkeypatch):
    """Counters of a profiler are no tensors in some files, and of no interest in any."""
    given, model = [], SimpleNamespace(config=SimpleNamespace())
    monkeypatch.setattr(
        sys.modules[convert.__module__], "convert_state_dict", lambda *all_: given.append(all_[2]) or (model, [])
    )
    plain, average = {"weight": torch.tensor([1.0])}, {"weight": torch.tensor([2.0])}
    torch.save({"state_dict": plain | {"total_ops": 7}, "state_dict_ema": average}, tmp_path / "two.pth")
    found, report = load_checkpoint("ghostnetv3-0.5x", tmp_path / "two.pth", entry="state_dict")
    assert found is model and (report.entry, report.converted, report.source) == ("state_dict", 1, "two.pth")
    assert given == [plain] and load_checkpoint("ghostnetv3-0.5x", tmp_path / "two.pth")[1].entry == "state_dict_ema"
    torch.save(plain | {"epoch": 7}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other things in it: \['epoch'\]"):
        load_checkpoint("ghostnetv3-0.5x", tmp_path / "other.pth")


def test_a_licence_that_is_given_stands_before_that_of_the_official_weights(monkeypatch):
    written = {}
    model = SimpleNamespace(config=SimpleNamespace())
    report = ConversionReport("ghostnetv3-1.0x", "official.pth", "0", "state_dict", 1, [], False)
    monkeypatch.setattr(sys.modules[convert.__module__], "load_checkpoint", lambda *_, **__: (model, report))
    monkeypatch.setattr("hf_effmodels.hub.export", lambda *_, **options: written.update(options))
    convert("ghostnetv3-1.0x", "official.pth", "out", license="mit")
    assert written["license"] == "mit"
    convert("ghostnetv3-1.0x", "official.pth", "out")
    assert written["license"] == "apache-2.0"
