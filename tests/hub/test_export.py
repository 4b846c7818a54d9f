"""The exported folder: its files, its card, and that it is written whole or not at all."""

import copy
import json
import os

import pytest
import torch
from huggingface_hub import ModelCard

import hf_effmodels
from hf_effmodels import _files
from hf_effmodels.hub import build_card, export

from .client import run_snippets


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_holds_weights_configuration_processor_card_and_code(tiny, tmp_path):
    folder = export(tiny.model, tiny.processor, tmp_path / "deep" / "model", license="mit")
    names = set(contents(folder))
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"} <= names
    assert {"modeling_ghostnet.py", "configuration_ghostnet.py", "reparameterization.py"} <= names
    assert {os.path.splitext(name)[1] for name in names} == {".safetensors", ".json", ".md", ".py"}
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoBackbone": "modeling_ghostnet.GhostNetV3Backbone",
        "AutoConfig": "configuration_ghostnet.GhostNetV3Config",
        "AutoModel": "modeling_ghostnet.GhostNetV3Model",
        "AutoModelForImageClassification": "modeling_ghostnet.GhostNetV3ForImageClassification",
    }
    assert os.listdir(folder.parent) == ["model"]
    assert not hasattr(tiny.model.config, "auto_map")  # the user's model stays as it is


def test_the_same_model_gives_the_same_bytes_and_may_replace_its_earlier_export(tiny, tmp_path):
    first = contents(export(tiny.model, tiny.processor, tmp_path / "one", license="mit"))
    assert contents(export(tiny.model, tiny.processor, tmp_path / "two", license="mit")) == first
    (tmp_path / "two" / "left_over.py").write_bytes(first["squeeze_excite.py"])
    assert contents(export(tiny.model, tiny.processor, tmp_path / "two", license="mit")) == first


def test_other_peoples_files_are_refused_and_with_overwrite_they_stay(tiny, tmp_path):
    for name in ("config.json", "notes.txt", "model-v1.safetensors"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(FileExistsError, match=r"holds checkpoint-7, which.*overwrite=True"):
        export(tiny.model, tiny.processor, tmp_path)
    export(tiny.model, tiny.processor, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "model-v1.safetensors").read_text() == "mine"
    assert (tmp_path / "checkpoint-7").is_dir()
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(FileExistsError, match="holds checkpoint-7"):  # an export, but not only that
        export(tiny.model, tiny.processor, tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        export(tiny.model, tiny.processor, tmp_path / "notes.txt")


def test_after_an_error_everything_is_as_it_was(tiny, tmp_path, monkeypatch):
    before = contents(export(tiny.model, tiny.processor, tmp_path / "model"))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(tiny.processor), "save_pretrained", fail)
    for name in ("model", "new"):
        with pytest.raises(OSError, match="disk full"):
            export(tiny.model, tiny.processor, tmp_path / name)
    monkeypatch.undo()
    # The last step of all fails: the new folder cannot take the old one's place.
    monkeypatch.setattr(_files, "_exchange", fail)
    with pytest.raises(OSError, match="disk full"):
        export(tiny.model, tiny.processor, tmp_path / "model", license="mit")
    assert contents(tmp_path / "model") == before
    assert os.listdir(tmp_path) == ["model"]


def test_only_our_models_with_stock_processors_are_exported(tiny, tmp_path):
    from transformers import ResNetConfig, ResNetModel

    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(ValueError, match="model: got ResNetModel .*accepted are models of this package: .*ghostnet"):
        export(resnet, tiny.processor, tmp_path / "x")
    with pytest.raises(ValueError, match="processor: got None, but GhostNetV3 takes images"):
        export(tiny.model, None, tmp_path / "x")
    own = type("OwnProcessor", (type(tiny.processor),), {"__module__": "mine"})()
    with pytest.raises(ValueError, match=r"processor: got mine\.OwnProcessor, accepted are classes of transformers"):
        export(tiny.model, own, tmp_path / "x")
    with pytest.raises(TypeError, match="licence"):
        export(tiny.model, tiny.processor, tmp_path / "x", licence="mit")
    assert os.listdir(tmp_path) == []


def test_the_card_states_what_is_known_and_nothing_else(tiny):
    card = build_card(
        tiny.model,
        processor=tiny.processor,
        license="apache-2.0",
        dataset="uoft-cs/cifar10",
        results=[
            {"metric": "accuracy", "value": 0.9312, "split": "test", "source": "evaluate.py, 3 May 2026, 2 cores"},
            {"metric": "loss", "value": 0.25},
        ],
        training={"optimizer": {"name": "lamb", "lr": 0.005}, "epochs": 3},
        repo_id="org/net",
        revision="0" * 40,
    )
    data = ModelCard(str(card)).data  # as the Hub reads it
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    assert data.tags == ["hf_effmodels", "ghostnetv3", "arxiv:2404.11202"]
    assert data.datasets == ["uoft-cs/cifar10"] and data.metrics == ["accuracy", "loss"]
    assert [(r.metric_type, r.metric_value, r.dataset_split) for r in data.eval_results] == [
        ("accuracy", 0.9312, "test"),
        ("loss", 0.25, None),
    ]
    text = card.text
    assert "| Labels | 3: cat, dog, owl |" in text
    assert f"| Parameters | {tiny.model.num_parameters() / 1e6:.3f} M |" in text
    assert "93.12 % (evaluate.py, 3 May 2026, 2 cores)" in text
    assert "| optimizer.lr | `0.005` |" in text
    assert text.count('model_id = "org/net"') == 3 and f'revision = "{"0" * 40}"' in text
    # Not one of the published networks: no published number, no multiply-adds of another size.
    assert "a variant of its own" in text and "Multiply-adds" not in text and "ImageNet-1k" not in text
    for gap in ("None", "TODO", "More information", "{", "<"):
        assert gap not in text.replace("{name}", "").replace("print({name", "print("), gap


def test_the_card_knows_a_published_variant_by_its_configuration():
    with torch.device("meta"):
        model = hf_effmodels.create_model("ghostnetv3-1.0x")
        folded = hf_effmodels.create_model("ghostnetv3-1.0x", reparameterized=True)
        small = hf_effmodels.create_model("ghostnetv3-1.0x", num_labels=10)
    text = build_card(model).text
    assert "# ghostnetv3-1.0x" in text and "404.1 M for one image of 224 × 224 pixels" in text
    assert "| Parameters | 8.129 M |" in text and "not measured here" in text
    assert "77.10 % (paper, quoted from memory)" in text
    assert "none stated: not for redistribution" in text
    text = build_card(folded).text
    assert f"| Parameters | {folded.num_parameters() / 1e6:.3f} M |" in text and "167.0 M for one image" in text
    assert "folded for inference" in text and "reparameterize()" not in text
    text = build_card(small).text
    assert "`ghostnetv3-1.0x`" in text and "Multiply-adds" not in text
    conversion = {
        "source": "ghostnetv3-1.0.pth.tar",
        "sha256": "ab" * 32,
        "entry": "state_dict_ema",
        "converted": 1956,
    }
    text = build_card(model, license="apache-2.0", conversion=conversion).text
    assert "ab" * 32 in text and "1956 tensors of state_dict_ema" in text and "these, converted" in text


@pytest.mark.parametrize(
    "auto_class, channels, blocks",
    [
        ("AutoModelForImageClassification", 3, 3),
        ("AutoModelForImageClassification", 1, 3),
        ("AutoModel", 3, 3),
        ("AutoBackbone", 4, 1),
    ],
)
def test_the_snippets_of_every_kind_of_card_run_in_the_folder(
    tiny, tmp_path, monkeypatch, auto_class, channels, blocks
):
    config = copy.deepcopy(tiny.model.config)
    config.num_channels = channels
    model = tiny.architecture.model_class(auto_class)(config)
    folder = export(model, tiny.processor, tmp_path / "model")
    monkeypatch.chdir(folder)
    readme = (folder / "README.md").read_text()
    assert run_snippets(readme, package=True) + run_snippets(readme, package=False) == blocks


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"license": "Apache 2.0"}, "license: got 'Apache 2.0'.*apache-2.0"),
        ({"license": "unknown"}, "license: got 'unknown'"),
        ({"license": "other"}, "needs license_name and license_link"),
        ({"license": "mit", "license_name": "x"}, "go with license='other'"),
        ({"preset": "ghostnet-1.0x"}, "preset: got 'ghostnet-1.0x', accepted for GhostNetV3: ghostnetv3-0.5x"),
        ({"results": {"accuracy": 0.9}}, "'accuracy' was measured on what"),
        ({"results": {"accuracy": "high"}, "dataset": "d"}, "must be a number, got 'high'"),
        ({"results": [{"metric": "accuracy"}], "dataset": "d"}, "mappings with 'metric' and 'value'"),
        ({"results": [{"metric": "a", "value": 1, "note": ""}], "dataset": "d"}, "unknown key 'note'"),
    ],
)
def test_wrong_card_arguments_are_named(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_card(tiny.model, **arguments)
