"""ADEM-VL on its way to the Hub: whole or adapters only, with its processor, and converted on the command line."""

import argparse
import json

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPImageProcessorPil

import hf_effmodels
from hf_effmodels.cli import main as command
from hf_effmodels.hub import export, publish
from hf_effmodels.modeling.adem_vl.modeling_adem_vl import ADAPTER_NAMES, AdemVLForConditionalGeneration
from hf_effmodels.modeling.adem_vl.processing_adem_vl import AdemVLProcessor

from ..training.tasks.image_text_to_text.conftest import bases  # noqa: F401
from .client import run_snippets
from .conftest import onto_the_network, run_client

SETTINGS = {"pool_sizes": [4, 2], "projector_hidden_size": 8, "vision_adapter_dim": 4}


@pytest.fixture
def parts(bases):  # noqa: F811
    """A model whose adapters are at work, and its processor."""
    torch.manual_seed(2)
    size = {"height": 32, "width": 32}
    image_processor = hf_effmodels.create_image_processor("adem_vl-7b-instruction", size=size)
    processor = AdemVLProcessor(image_processor, AutoTokenizer.from_pretrained(bases / "llm"))
    settings = {**SETTINGS, "image_token_id": processor.image_token_id}
    model = AdemVLForConditionalGeneration.from_base_models(str(bases / "llm"), str(bases / "clip"), **settings)
    with torch.no_grad():
        model.model.value_offsets.normal_()
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    return model, processor


def last_logits(model, processor):
    content = [{"type": "image", "image": Image.linear_gradient("L")}, {"type": "text", "text": "Which colour is it?"}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    with torch.no_grad():
        return model(**inputs).logits[0, -1]


def test_folders_load_with_and_without_the_package(parts, tmp_path, monkeypatch):
    model, processor = parts
    whole = export(model, processor, tmp_path / "whole", license="mit")
    adapters = export(model, processor, tmp_path / "adapters", adapter_only=True)
    assert (adapters / "model.safetensors").stat().st_size < (whole / "model.safetensors").stat().st_size / 2
    for name in ("config.json", "processor_config.json"):
        mapping = json.loads((whole / name).read_text())["auto_map"]
        assert mapping["AutoProcessor"] == "processing_adem_vl.AdemVLProcessor"
    card = ModelCard((adapters / "README.md").read_text())
    assert card.data.pipeline_tag == "image-text-to-text" and "| In this repository | the adapters only" in card.text
    assert "None" not in card.text and "A vision-language model" in card.text

    folders = {"whole": str(whole), "adapters": str(adapters)}
    report = run_client("conversation_without_package", folders, home=tmp_path / "home", hub=None, HF_HUB_OFFLINE="1")
    expected = last_logits(model, processor)
    for name in ("whole", "adapters"):
        torch.testing.assert_close(torch.tensor(report[name]["logits"]), expected, rtol=1e-4, atol=1e-4)
        assert report[name]["snippets"] == 1 and isinstance(report[name]["answer"], str)
        assert all(module.startswith("transformers_modules.") for module in report[name]["classes"])
    assert report["package"] == []

    for folder in (whole, adapters):
        monkeypatch.chdir(folder)
        assert run_snippets((folder / "README.md").read_text(), package=True) == 1
        loaded = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert [type(part) for part in loaded] == [AdemVLForConditionalGeneration, AdemVLProcessor]
        torch.testing.assert_close(last_logits(*loaded), expected)


def test_adapters_that_name_a_path_of_this_machine_are_not_published(parts, tmp_path):
    model, processor = parts
    folder = export(model, processor, tmp_path / "adapters", adapter_only=True, license="mit")
    with pytest.raises(
        ValueError, match="vision_model_name_or_path is .*, which is no id of the Hub .*a path of one machine"
    ):
        publish(folder, "someone/adapters", token="hf_x")


def test_a_folder_is_published_as_it_is_with_its_snippets_naming_the_repository(parts, hub, tmp_path, monkeypatch):
    onto_the_network(monkeypatch, tmp_path)
    model, processor = parts
    folder = export(model, processor, tmp_path / "model", license="mit")
    publish(folder, "org/vlm", token="maker", endpoint=hub.url)
    published = hub.files("org/vlm")
    readme = published.pop("README.md").decode()
    assert readme.count('model_id = "org/vlm"') == 2
    assert published == {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def test_other_processors_are_refused(parts, tmp_path):
    model, processor = parts
    for wrong in (None, processor.tokenizer, CLIPImageProcessorPil()):
        with pytest.raises(ValueError, match=r"but ADEM-VL takes images and text; give an AdemVLProcessor"):
            export(model, wrong, tmp_path / "x")
    ghostnet = hf_effmodels.create_model("ghostnet-1.0x")
    with pytest.raises(
        ValueError, match="adapter_only: got True, but a GhostNetForImageClassification has no adapters"
    ):
        export(ghostnet, hf_effmodels.create_image_processor("ghostnet-1.0x"), tmp_path / "x", adapter_only=True)
    assert not (tmp_path / "x").exists()


OFFICIAL = {
    "model.key_offsets": "adapter_emb1",
    "model.value_offsets": "adapter_emb2",
    "model.image_projection.": "adapter_proj.",
    "model.class_projection.": "adapter_proj_cls.",
    "model.vision_adapters.": "backbone.visual.transformer.resblocks.",
}


def test_the_command_converts_official_adapters_to_a_folder_for_the_hub(parts, bases, tmp_path, capsys):  # noqa: F811
    model, processor = parts
    weights = {}
    for name, value in model.state_dict().items():
        if ADAPTER_NAMES.match(name):
            start = next(ours for ours in OFFICIAL if name.startswith(ours))
            theirs = name.replace(start, OFFICIAL[start])
            weights[theirs.replace(".fc", ".adapter_mlp.fc") if "resblocks" in theirs else theirs] = value
    arguments = argparse.Namespace(alpha=0.1, beta=0.01, drop_ratio=0.1, down_sample_num=[16, 4], no_cls=False)
    torch.save({"model": weights, "args": arguments}, tmp_path / "official.pth")
    convert = ["convert", "adem_vl-7b-instruction", str(tmp_path / "official.pth"), str(tmp_path / "folder")]
    assert command(convert) == 2
    assert "--text-model: got None, but adem_vl-7b-instruction is a set of adapters" in capsys.readouterr().err
    convert += ["--text-model", str(bases / "llm"), "--vision-model", str(bases / "clip"), "--json"]
    assert command(convert) == 0
    assert json.loads(capsys.readouterr().out)["converted"] == len(weights)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "folder")
    read = AutoProcessor.from_pretrained(tmp_path / "folder")
    assert list(read.image_processor.image_mean) == [0.485, 0.456, 0.406]
    torch.testing.assert_close(last_logits(loaded, read), last_logits(model, processor))
    assert "Converted from the official weights" in (tmp_path / "folder" / "README.md").read_text()
