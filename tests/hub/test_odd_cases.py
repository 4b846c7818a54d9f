"""What is converted, exported and published where something is missing or of another kind."""

import json
import sys
from types import SimpleNamespace

import pytest

from hf_effmodels import models
from hf_effmodels.hub import convert as convert_function
from hf_effmodels.hub import pretrained as pretrained_function
from hf_effmodels.hub.contents import own_files
from hf_effmodels.hub.publish import explained

CONVERT, PRETRAINED = (sys.modules[function.__module__] for function in (convert_function, pretrained_function))


@pytest.mark.parametrize(
    "files", [{"model_index.json": "{"}, {"model_index.json": "[]"}, {"model_index.json": b"\xff"}]
)
def test_of_a_folder_in_disorder_nothing_is_ours_to_replace(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    assert own_files(tmp_path) == set()
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "Net"]}))
    assert "unet/config.json" in own_files(tmp_path)


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_base_model_that_cannot_be_read_is_named_by_its_argument(monkeypatch, error):
    def fail(where):
        raise error("there is no such thing\nand a page")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    with pytest.raises(
        OSError, match="^text_model: 'a/b' cannot be found or read .AutoConfig: there is no such thing.$"
    ):
        CONVERT._base_configs({"text_model": "a/b"})


def test_of_a_base_model_of_several_parts_the_one_that_is_meant_is_taken(monkeypatch):
    whole = SimpleNamespace(vision_config="its tower")
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda where: whole)
    assert CONVERT._base_configs({"vision_model": "a/clip", "text_model": "a/clip"}) == {
        "vision_config": "its tower",
        "vision_model_name_or_path": "a/clip",
        "text_config": whole,
        "text_model_name_or_path": "a/clip",
    }


def test_pipelines_have_no_weights_of_their_own_to_name():
    assert PRETRAINED._has_sources("ghostnetv3-1.0x") is True
    assert PRETRAINED._has_sources("sam-diffsr-x4") is False
    with pytest.raises(ValueError, match="pipeline"):
        PRETRAINED.sources("sam-diffsr-x4")


def test_faults_that_are_not_of_the_network_are_told_as_they_are():
    with pytest.raises(RuntimeError, match="^a fault of our own$"), explained("org/net", 1):
        raise RuntimeError("a fault of our own")


def test_published_weights_that_were_folded_make_a_folded_network(monkeypatch, tmp_path):
    published = SimpleNamespace(reparameterized=True, num_labels=3, architectures=["Net"])
    config = SimpleNamespace(reparameterized=False, num_labels=3)
    config_class = type("Config", (), {"from_pretrained": staticmethod(lambda folder: published)})
    own = config_class()
    own.__dict__.update(vars(config))
    found = {"mismatched_keys": [], "missing_keys": []}
    seen = []

    class Net:
        base_model_prefix, base_model = "net", None

        def eval(self):
            return self

        @classmethod
        def from_pretrained(cls, folder, config, **options):
            seen.append((folder, config.reparameterized, options))
            return cls(), found

    monkeypatch.setattr("hf_effmodels.hub.pretrained", lambda name, source: f"{name} of {source}")
    for folded in (True, False):
        own.reparameterized, published.reparameterized = False, folded
        models._with_published_weights(Net, "x", "timm", own)
        assert seen[-1][:2] == ("x of timm", folded)
    assert seen[-1][2] == {"ignore_mismatched_sizes": True, "output_loading_info": True}
    # A head of other classes is new; anything else that does not fit is said.
    own.num_labels = 5
    found["mismatched_keys"] = [("head.weight", (3, 8), (5, 8))]
    models._with_published_weights(Net, "x", None, own)
    for changed in (
        {"mismatched_keys": [("stem.weight", (4, 8), (5, 8))]},
        {"missing_keys": ["net.stem.weight"]},
        {"missing_keys": ["head.bias"]},
    ):
        found.update({"mismatched_keys": [], "missing_keys": []} | changed)
        with pytest.raises(
            ValueError, match="^pretrained: the published weights of x do not fit this configuration; "
        ):
            models._with_published_weights(Net, "x", None, own)
    # Another head than the published one begins anew.
    published.architectures = ["Other"]
    models._with_published_weights(Net, "x", None, own)
