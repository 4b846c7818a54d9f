"""Graphs of a head and a tail send and read what halves of PyTorch do."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels import CodedForImageClassification, edge
from hf_effmodels.cli import main
from hf_effmodels.collaboration.codecs.wire import ChannelCodec
from hf_effmodels.collaboration.splitting import split
from hf_effmodels.edge_halves import ExportedTail, _compared, export_halves, load_halves


def network() -> ResNetForImageClassification:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32, "num_labels": 5}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic")).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A coded classifier, and the folder that it is in beside that of its graphs."""
    folder = tmp_path_factory.mktemp("halves")
    coded = CodedForImageClassification.around(network(), "stages.0", widths=[2, 4])
    coded.fix_code()
    coded.eval().save_pretrained(folder / "coded")
    assert not main(["export", str(folder / "coded"), str(folder / "edge"), "--format", "onnx"])
    return coded, folder


@torch.no_grad()
def test_a_coded_classifier_is_exported_up_to_its_bytes_and_from_them_on(exported, tmp_path, capsys):
    coded, folder = exported
    with pytest.raises(ValueError, match="makes bytes between its halves, which no graph can; edge_halves"):
        edge.export(coded, tmp_path / "edge", "onnx")
    assert main(
        ["export", str(folder / "coded"), str(tmp_path / "edge"), "--format", "onnx", "--precision", "float16"]
    )
    assert "--precision: got 'float16', which halves are not exported with" in capsys.readouterr().err
    assert not (tmp_path / "edge").exists()
    (head, tail), (device, server) = load_halves(folder / "edge"), coded.halves()
    pixels = torch.randn(5, 3, 32, 32)
    for width in (2, 4, None):
        options = {} if width is None else {"width": width}
        sent, expected = head(pixels, **options), device(pixels, **options)
        assert sent.keys() == expected.keys()
        assert all(torch.equal(sent[name], expected[name]) for name in sent)
        logits = coded(pixels, width=width).logits
        torch.testing.assert_close(tail(sent, tuple(pixels.shape)), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(server(sent, tuple(pixels.shape)), logits, rtol=1e-4, atol=1e-5)
    # Weights of the other half are in no graph.
    weights = 4 * sum(p.numel() for p in coded.network.parameters() if not p.is_meta)
    assert (folder / "edge" / "tail.onnx").stat().st_size < weights + 4 * 60 * 16 * 16 + 60_000
    damaged = {**sent, "streams": sent["streams"] ^ 1}
    for wrong, message in (
        (lambda: head(pixels[..., :28]), r"pixel_values: got \(5, 3, 32, 28\), exported for images of \(32, 32\)"),
        (lambda: head(pixels, width=3), "width: got 3, accepted are 2, 4"),
        (
            lambda: tail(damaged, tuple(pixels.shape)),
            "streams: they have been damaged",
        ),
        (lambda: load_halves(tmp_path), "was not written by export_halves"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_halves_that_are_damaged_are_refused_in_a_line(exported, tmp_path):
    def without(name):
        return lambda content: content.pop(name)

    def with_(name, value):
        return lambda content: content.update({name: value})

    def of_cut(name, value):
        return lambda content: content["facts"].update({name: value})

    shutil.copytree(exported[1] / "edge", tmp_path / "edge")
    facts = tmp_path / "edge" / "halves.json"
    whole = facts.read_text()

    def refused(message):
        with pytest.raises(ValueError, match=f"^folder: .*edge.*{message}") as told:
            load_halves(tmp_path / "edge")
        assert "\n" not in str(told.value)

    for change, message in (
        *((without(name), f"is damaged: {name} is None, expected") for name in ("format", "shape", "between")),
        (with_("format", "../onnx"), "is damaged: format is '../onnx', expected onnx or openvino"),
        (with_("format", ["onnx"]), "is damaged: format is "),
        (with_("image_size", [32]), "is damaged: image_size is .32., expected height and width"),
        (with_("image_size", [32, True]), "is damaged: image_size is"),
        (with_("shape", [3, -8, 8, 8]), "is damaged: shape is .*expected a list of whole numbers from 1"),
        (with_("shape", [3]), "is damaged: shape is .3., expected a list of whole numbers from 1"),
        (with_("shape", []), "is damaged: shape is .., expected a list of whole numbers from 1"),
        (with_("widths", ["/../../tail"]), "is damaged: widths is ..[/]../../tail.., expected a list of whole"),
        (with_("widths", [5]), "has no graph head-5 to be read"),
        (with_("between", "levels"), "is damaged: between is 'levels', expected a list of names of tensors"),
        (without("facts"), "is damaged: it does not tell how the network was cut"),
        (with_("facts", ["stages.0"]), "is damaged: it does not tell how the network was cut"),
        (of_cut("at", None), "is damaged: it does not tell how the network was cut"),
        (of_cut("codec", "zip"), "is damaged: codec: got 'zip', accepted are"),
        (of_cut("codec_settings", {"nope": 1}), "is damaged: codec: .* does not take"),
        (of_cut("codec", "channels"), "is damaged: codec: channels does not take"),
    ):
        content = json.loads(whole)
        change(content)
        facts.write_text(json.dumps(content))
        refused(message)
    for text, message in (("[]", "holds no facts by their names"), ("{", "is damaged"), ("[" * 10**5, "is damaged")):
        facts.write_text(text)
        refused(message)
    facts.write_text(whole)
    for file, message in (
        ("head-2.onnx", "has no graph head-2 to be read"),
        ("codec.safetensors", "codec.saf.* holds no"),
    ):
        kept = (tmp_path / "edge" / file).read_bytes()
        (tmp_path / "edge" / file).write_bytes(kept[:20])
        refused(message)
        (tmp_path / "edge" / file).unlink()
        refused(message)
        (tmp_path / "edge" / file).write_bytes(kept)
    head, tail = load_halves(tmp_path / "edge")
    assert {p.requires_grad for half in (head, tail) for p in half.codec.parameters()} == {False}


@pytest.mark.thorough
@torch.no_grad()
def test_halves_with_few_bits_of_fewer_channels_are_exported_for_openvino(tmp_path, capsys):
    model = network()
    head, tail = split(model, "stages.0", codec=ChannelCodec(8, 2, 5))
    for half in (head, tail):
        half.save_pretrained(tmp_path / "halves" / half.half)
    assert not main(["export", str(tmp_path / "halves"), str(tmp_path / "edge"), "--format", "openvino", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["graphs"] == ["head", "tail"] and report["difference"] <= 1e-4 and report["other_numbers"] <= 0.02
    own, server = load_halves(tmp_path / "edge")
    pixels = torch.randn(2, 3, 32, 32)
    sent = head(pixels)
    assert own(pixels)["levels"].shape == sent["levels"].shape == (2, 4 * 8 * 8 * 5 // 8)
    expected = tail(sent, tuple(pixels.shape))
    torch.testing.assert_close(server(sent, tuple(pixels.shape)), expected, rtol=1e-3, atol=1e-4)
    other = split(network(), "stages.1", codec=ChannelCodec(16, 2, 5))[1]
    with pytest.raises(ValueError, match="tail: it was cut after .*stages.1 of another network"):
        export_halves(head, other, tmp_path / "other")
    with pytest.raises(ValueError, match="format: got 'executorch', accepted of halves are 'onnx', 'openvino'"):
        export_halves(head, tail, tmp_path / "other", "executorch")


class Stand:
    """A half that says what it is told to; its codec sends whole numbers."""

    takes_images = False

    def __init__(self, logits=None, levels=None):
        self.logits, self.levels, self.codec = logits, levels, self

    def __call__(self, given, shape=None, **_):
        return self.logits[: shape[0]].clone() if self.logits is not None else b"bytes"

    def features(self, pixels):
        return pixels

    def between(self, features, **_):
        return {"levels": self.levels[: len(features)], "scale": torch.ones(1)}


def test_graphs_of_halves_are_judged_by_the_spread_of_logits_and_the_share_of_other_numbers():
    expected = torch.tensor([[0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])  # a deviation of √2 of one image, √1.2 of three
    got = expected + torch.tensor([[0.0, 0.1], [0.0, 0.0], [-0.4, 0.0]])
    levels = torch.arange(12).reshape(3, 4)
    others = levels.clone()
    others[0, 0] += 1
    halves = Stand(levels=others), Stand(got), Stand(levels=levels), Stand(expected)
    difference, share = _compared(*halves, torch.zeros(3, 1), [None])
    assert difference == pytest.approx(0.4 / 1.2**0.5) and share == pytest.approx(1 / 4)
    got[2, 0] = float("nan")
    with pytest.raises(ValueError, match="logits are not finite"):
        _compared(*halves[:1], Stand(got), *halves[2:], torch.zeros(3, 1), [None])


@pytest.mark.parametrize("width", [2, 3, 5])
def test_channels_that_a_narrower_encoder_has_not_are_noughts_behind_those_it_has(width, monkeypatch):
    """As the decoder of PyTorch takes the first channels of its weights."""
    given = []
    code = torch.arange(1.0, 1 + 2 * width * 3 * 4).reshape(2, width, 3, 4)
    codec = SimpleNamespace(unpack=lambda sent, shape, dtype: {"code": code, "scale": torch.ones(1)})
    monkeypatch.setattr(
        "hf_effmodels.edge_halves.load_graph", lambda *_: lambda **tensors: [given.append(tensors) or "logits"]
    )
    facts = {"facts": None, "image_size": [32, 32], "shape": [1, 5, 3, 4], "between": ["code"], "format": "onnx"}
    tail = ExportedTail(Path("x"), {**facts, "widths": [2, 3, 5]}, codec)
    assert tail({}, (2, 3, 32, 32)) == "logits"
    (tensors,) = given
    assert tensors["code"].shape == (2, 5, 3, 4) and torch.equal(tensors["code"][:, :width], code)
    assert not tensors["code"][:, width:].any() and torch.equal(tensors["scale"], torch.ones(1))
