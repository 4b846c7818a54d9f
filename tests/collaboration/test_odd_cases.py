"""Halves and parts at their edges: passes that do not come to the cut, ids of the Hub, requests that fail."""

import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from hf_effmodels.collaboration import parts, parts_command
from hf_effmodels.collaboration.codecs import curves
from hf_effmodels.collaboration.offloading import command as offloading
from hf_effmodels.collaboration.splitting import SplitHead, SplitTail, halves, service, split
from hf_effmodels.collaboration.splitting.service import ServiceLimits

from .test_splitting import resnet

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_pass_that_does_not_come_to_the_cut_is_told():
    head, tail = split(resnet(), "stages.0")
    sent = head(PIXELS)
    for half, call, argument in (
        (head, lambda: head.features(PIXELS), "pixel_values"),
        (tail, lambda: tail(sent, tuple(PIXELS.shape)), "input_shape"),
    ):
        network = half.network
        logits = SimpleNamespace(logits=torch.zeros(2, 5, device="meta"))
        half.network = type("Short", (torch.nn.Module,), {"forward": lambda self, pixels, logits=logits: logits})()
        with pytest.raises(ValueError, match=f"^{argument}: the pass has not come to '.*stages.0'.$"):
            call()
        half.network = network
    torch.testing.assert_close(tail(sent, tuple(PIXELS.shape)), tail(head(PIXELS), tuple(PIXELS.shape)))


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError])
def test_a_network_that_cannot_be_computed_in_halves_is_told_where(monkeypatch, error):
    def forward(self, sent, shape):
        raise error("views of another size")

    monkeypatch.setattr(SplitTail, "forward", forward)
    with pytest.raises(ValueError, match="^at: the network cannot be computed in two parts at '.*stages.0': views of"):
        split(resnet(), "stages.0")


def test_of_a_half_on_the_hub_its_own_files_are_downloaded(monkeypatch, tmp_path):
    head, _ = split(resnet(), "stages.0")
    head.save_pretrained(tmp_path / "head")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or tmp_path / "head")
    monkeypatch.setattr("hf_effmodels._places.check_folder_or_id", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    loaded = SplitHead.from_pretrained("org/half", token="mine", revision="v1", cache_dir="here")
    torch.testing.assert_close(loaded(PIXELS), head(PIXELS))
    (((name,), how),) = asked
    assert name == "org/half" and {*how.pop("allow_patterns")} == {*halves.own_files()}
    assert how == {"token": "mine", "revision": "v1", "cache_dir": "here"}
    with pytest.raises(TypeError, match="^from_pretrained: SplitHead does not take colour.$"):
        SplitHead.from_pretrained("org/half", colour="red")


def test_without_the_package_a_half_is_not_published(monkeypatch):
    head, _ = split(resnet(), "stages.0")
    monkeypatch.setitem(sys.modules, "hf_effmodels.hub.halves", None)
    with pytest.raises(ImportError, match="^push_to_hub: it needs the package hf_effmodels$"):
        head.push_to_hub("org/half")


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, TypeError])
def test_a_request_that_cannot_be_computed_is_refused_and_noted(monkeypatch, caplog, error):
    def tail(sent, shape):
        raise error("no such size")

    tail.device = "cpu"
    monkeypatch.setattr(service, "unpack", lambda body, **limits: ({"x": torch.zeros(1)}, (1, 3, 8, 8)))
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(ValueError, match=r"^payload: images of shape \[1, 3, 8, 8\] ca"),
    ):
        service._compute(tail, b"", 3, ServiceLimits())
    assert "a request could not be computed" in caplog.text and "no such size" in caplog.text


def test_logits_that_are_no_numbers_are_not_answered(monkeypatch):
    asked = []
    given = torch.tensor([[1.0, float("inf")]])

    def tail(sent, shape):
        asked.append((sent["x"].device.type, shape, torch.is_inference_mode_enabled()))
        return given

    tail.device = "cpu"
    limits = ServiceLimits(max_images=3, max_pixels=99)
    monkeypatch.setattr(
        service, "unpack", lambda body, **given: asked.append((body, given)) or ({"x": torch.zeros(1)}, (1, 3, 8, 8))
    )
    with pytest.raises(ValueError, match="^payload: it leads to logits that are not finite.$"):
        service._compute(tail, b"body", 3, limits)
    assert asked == [
        (b"body", {"channels": 3, "max_images": 3, "max_pixels": 99}),
        ("cpu", (1, 3, 8, 8), True),
    ]
    given[0, 1] = 2.0
    answer, began, ended = service._compute(tail, b"body", 3, limits)
    assert isinstance(answer, bytes) and began <= ended


def test_a_classifier_with_a_code_gets_no_second_one(monkeypatch, tmp_path):
    coded = SimpleNamespace(config=SimpleNamespace(model_type="x"), eval=lambda: coded)
    monkeypatch.setattr(curves, "load_whole", lambda *_, **__: coded)
    monkeypatch.setattr(curves, "is_in_halves", lambda model_type: model_type == "x")
    args = SimpleNamespace(
        check_places=lambda: None, betas=[0.5], output=str(tmp_path / "out"), revision=None, token=None, model="a/b"
    )
    with pytest.raises(ValueError, match="^--model: a/b has a code already; accepted are classifiers without.$"):
        curves._train(args, None, None)


def test_modules_to_imitate_are_found_by_their_name_or_its_end(monkeypatch):
    model = torch.nn.ModuleDict({"block": torch.nn.Identity()})
    model["inner"] = torch.nn.ModuleDict({"block": torch.nn.Identity(), "last": torch.nn.Identity()})
    model["more"] = torch.nn.ModuleDict({"block": torch.nn.Identity()})
    cut = SimpleNamespace(point=SimpleNamespace(name="cut"))
    monkeypatch.setattr(curves, "Trace", lambda model: SimpleNamespace(cut=lambda at: cut))
    found = curves._full_names(model, SimpleNamespace(at=None, features=["block", "last", "inner.block"]))
    assert found == ["cut", "block", "inner.last", "inner.block"]
    del model["block"]
    with pytest.raises(ValueError, match="^--features: 'block' may be inner.block, more.block; accepted are names"):
        curves._full_names(model, SimpleNamespace(at=None, features=["block"]))


def test_without_matplotlib_nothing_is_drawn(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    offloading._draw(tmp_path / "a.png", {}, [])
    assert not any(tmp_path.iterdir())


def _part(**config):
    model = SimpleNamespace(config=SimpleNamespace(**config))
    model.eval = lambda: model
    return model


def test_a_part_is_a_network_of_one_part_or_one_that_becomes_one(monkeypatch):
    place = "hf_effmodels.collaboration.parts"
    loaded = {}
    monkeypatch.setattr(parts, "load_whole", lambda auto, argument, name, **said: loaded.update(said) or loaded["is"])
    monkeypatch.setattr("transformers.AutoImageProcessor.from_pretrained", lambda name, **how: (name, how))
    loaded["is"] = _part(model_type="devit", parts=[1])
    assert parts._one_part("PART", "a/b", "v1", "mine") == (
        loaded["is"],
        ("a/b", {"revision": "v1", "token": "mine"}),
    )
    assert (loaded["revision"], loaded["token"]) == (("--revision", "v1"), "mine")
    loaded["is"] = _part(model_type="devit", parts=[1, 2])
    with pytest.raises(ValueError, match="^PART: a/b has 2 parts, accepted is a DeViT of one.$"):
        parts._one_part("PART", "a/b")
    loaded["is"], one = _part(model_type="vit"), _part(parts=[1])
    monkeypatch.setattr(f"{place}.from_transformers", lambda model: one)
    for error in (OSError, ValueError):

        def missing(name, error=error, **how):
            raise error("there is none")

        monkeypatch.setattr("transformers.AutoImageProcessor.from_pretrained", missing)
        assert parts._one_part("PART", "a/b") == (one, None)

    def refuse(model):
        raise ValueError("it has no class token")

    monkeypatch.setattr(f"{place}.from_transformers", refuse)
    with pytest.raises(ValueError, match="^PART: a/b: it has no class token$"):
        parts._one_part("PART", "a/b")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "devit", "parts": [{}]}, None),
        ({"model_type": "devit"}, None),
        ({"model_type": "vit", "parts": [1, 2]}, None),  # a field of somebody's own
        ({"model_type": "deit"}, None),
        ({"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]}, None),
        ({}, None),  # what says nothing is told when it is read
        ({"model_type": "devit", "parts": [{}, {}]}, "PART: .* has 2 parts, accepted is a DeViT of one"),
        ({"model_type": "devit", "parts": []}, "PART: .* has 0 parts, accepted is a DeViT of one"),
        ({"model_type": "swin"}, "PART: .* is a swin, accepted are ViT, DeiT and DeViT of one part"),
    ],
)
def test_a_folders_configuration_tells_whether_it_is_one_part(config, message, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_command, "check_head", lambda *_: None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if message is None:
        assert parts_command._check_part("PART", str(tmp_path)) is None
        return
    with pytest.raises(ValueError, match=message):
        parts_command._check_part("PART", str(tmp_path))
