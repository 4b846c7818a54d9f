"""Graphs of a head and a tail send and read what halves of PyTorch do."""

import json

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels import CodedForImageClassification, edge
from hf_effmodels.cli import main
from hf_effmodels.collaboration.codecs.wire import ChannelCodec
from hf_effmodels.collaboration.splitting import split
from hf_effmodels.edge_halves import export_halves, load_halves


def network() -> ResNetForImageClassification:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32, "num_labels": 5}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic")).eval()


@torch.no_grad()
def test_a_coded_classifier_is_exported_up_to_its_bytes_and_from_them_on(tmp_path, capsys):
    coded = CodedForImageClassification.around(network(), "stages.0", widths=[2, 4])
    coded.fix_code()
    coded.eval().save_pretrained(tmp_path / "coded")
    with pytest.raises(ValueError, match="makes bytes between its halves, which no graph can; edge_halves"):
        edge.export(coded, tmp_path / "edge", "onnx")
    assert main(
        ["export", *(str(tmp_path / n) for n in ("coded", "edge")), "--format", "onnx", "--precision", "float16"]
    )
    assert "--precision: got 'float16', which halves are not exported with" in capsys.readouterr().err
    assert not (tmp_path / "edge").exists()
    assert not main(["export", str(tmp_path / "coded"), str(tmp_path / "edge"), "--format", "onnx"])
    assert "head-2" in capsys.readouterr().out
    (head, tail), (device, server) = load_halves(tmp_path / "edge"), coded.halves()
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
    assert (tmp_path / "edge" / "tail.onnx").stat().st_size < weights + 4 * 60 * 16 * 16 + 60_000
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
