"""Saving, exporting and publishing: with the package and where it is not installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import LlamaForCausalLM

import hf_effmodels
from hf_effmodels.hub import publish
from hf_effmodels.pipelines import DelvmImageTokenizer, DelvmPipeline
from hf_effmodels.pipelines.delvm import pipeline_delvm
from hf_effmodels.pipelines.delvm.export import build_card, export

from ...hub.conftest import maker_hub, onto_the_network
from .test_pipeline import lively_language_model, picture, quiet
from .tiny import tiny_vqvae

IMAGES = [picture(number) for number in (1, 2, 3)]
CODE = {"pipeline_delvm.py", "image_tokenizer_delvm.py", "llama_steps.py"}
PARTS = {"vqvae/diffusion_pytorch_model.safetensors", "language_model/model.safetensors"}


@pytest.fixture(scope="module")
def pipe():
    return quiet(DelvmPipeline(tiny_vqvae(), lively_language_model().float()))


def answer(pipe) -> list:
    return quiet(pipe)(prompt_images=[tuple(IMAGES[:2])], image=IMAGES[2]).token_ids.tolist()


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_saved_pipeline_comes_back_whole_and_in_parts(pipe, tmp_path):
    DelvmPipeline(pipe.vqvae, pipe.language_model, image_size=8).save_pretrained(tmp_path)
    again = DelvmPipeline.from_pretrained(tmp_path)
    assert again.config.image_size == 8 and answer(again) != answer(pipe)
    tokenizer = DelvmImageTokenizer.from_pretrained(tmp_path, subfolder="vqvae")
    assert torch.equal(tokenizer.encode(IMAGES), pipe.image_tokenizer.encode(IMAGES))
    model = LlamaForCausalLM.from_pretrained(tmp_path, subfolder="language_model")
    assert torch.equal(model.lm_head.weight, pipe.language_model.lm_head.weight)
    assert model.generation_config.eos_token_id is None
    again.save_pretrained(tmp_path / "again")
    for path in tmp_path.glob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert "_name_or_path" not in json.loads((tmp_path / "model_index.json").read_bytes())


def test_an_export_has_a_card_and_replaces_only_its_own(pipe, tmp_path):
    folder = export(pipe, tmp_path / "model", license="mit", preset="delvm-300m", repo_id="org/delvm")
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.license) == ("diffusers", "mit")
    assert '"org/delvm"' in card.text and "Up to 7 pairs" in card.text and "18.84 %" in card.text
    assert CODE | PARTS | {"model_index.json", "README.md"} < files(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        export(pipe, folder)
    export(pipe, folder, overwrite=True, license="apache-2.0")
    assert (folder / "notes.txt").read_text() == "mine"
    assert ModelCard.load(folder / "README.md").data.license == "apache-2.0"
    with pytest.raises(ValueError, match="preset: got 'delvm-80m', accepted are 'delvm-300m', 'delvm-1b'"):
        export(pipe, tmp_path / "other", preset="delvm-80m")
    assert not (tmp_path / "other").exists()


def test_a_published_pipeline_answers_with_the_package_and_without(pipe, tmp_path, monkeypatch):
    onto_the_network(monkeypatch, tmp_path)
    folder = export(pipe, tmp_path / "model", license="mit")
    (folder / "language_model" / "training_args.bin").write_bytes(b"not for others")
    with maker_hub() as hub:
        commit = publish(folder, "org/delvm", token="maker", endpoint=hub.url)
        published = hub.files("org/delvm", commit.oid)
        assert published.keys() >= CODE | PARTS | {"language_model/generation_config.json"}
        card = (folder / "README.md").read_text()
        assert card.count('"path/to/this/folder"') == 2
        assert published["README.md"].decode() == card.replace('"path/to/this/folder"', '"org/delvm"')
        assert not [name for name in published if name.endswith(".bin")]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("user.py"))],
            input=json.dumps({"name": "org/delvm", "images": [np.asarray(image).tolist() for image in IMAGES]}),
            env={
                **{n: v for n, v in os.environ.items() if n not in ("HF_HUB_CACHE", "HF_MODULES_CACHE")},
                **{"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.url},
                **{"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"},
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["class"], report["package"]) == ("DelvmPipeline", []) and "trust_remote_code" in report["untrusted"]
    assert report["ids"] == answer(pipe)


def test_presets_say_what_is_published_and_build_such_a_pipeline():
    info = hf_effmodels.model_info("delvm-300m")
    assert info.parameters == 445.74 and info.tasks == ("visual-prompting",) and info.macs == 290.98
    tiny = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = {"block_out_channels": [32] * 5, "layers_per_block": 1}
    pipe = hf_effmodels.create_model("delvm-1b", language_model=tiny, vqvae=small, image_size=32)
    assert pipe.language_model.config.hidden_size == 16 and pipe.image_tokenizer.tokens_per_image == 4
    assert pipe.language_model.config.attention_bias and pipe.language_model.generation_config.eos_token_id is None
    quiet(pipe)(prompt_images=[], image=IMAGES[0])


@pytest.mark.parametrize("preset", ["delvm-300m", "delvm-1b"])
def test_the_published_sizes_are_those_of_the_networks(preset):
    from diffusers import VQModel
    from transformers import LlamaConfig

    from hf_effmodels.pipelines.delvm.configuration_delvm import PRESETS

    known = PRESETS[preset]
    with torch.device("meta"):
        parts = {
            "vqvae": VQModel(**known.config["vqvae"]),
            "language_model": LlamaForCausalLM(LlamaConfig(**known.config["language_model"])),
        }
    for name, model in parts.items():
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == known.part_parameters[name]
    # What no size of a weight says: into how many heads the channels are cut.
    assert {layer.self_attn.head_dim for layer in parts["language_model"].model.layers} == {128}
    linear = sum(m.weight.numel() for m in parts["language_model"].modules() if isinstance(m, torch.nn.Linear))
    assert round(linear / 1e6, 2) == known.macs
    every = sum(p.numel() for model in parts.values() for p in model.parameters()) / 1e6
    assert hf_effmodels.model_info(preset).parameters == pytest.approx(every, abs=0.011)  # a sum of two rounded ones


def test_code_beside_a_pipeline_is_renewed_and_what_is_linked_to_ours_stays(pipe, tmp_path):
    here = Path(pipeline_delvm.__file__)
    (tmp_path / "pipeline_delvm.py").write_text("of an earlier version")
    (tmp_path / "llama_steps.py").symlink_to(here.with_name("llama_steps.py"))
    pipe.save_config(tmp_path)
    for name in CODE:
        assert (tmp_path / name).read_bytes() == here.with_name(name).read_bytes()
    assert (tmp_path / "llama_steps.py").is_symlink()
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_delvm", "DelvmPipeline"] and index["image_size"] == 16


def test_a_card_of_a_pipeline_says_what_it_is_made_of_where_it_is_from_and_whose_the_code_is(pipe):
    card = build_card(pipe, license="mit", repo_id="org/mine")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", card.text, re.MULTILINE))
    language, tokens = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (pipe.language_model, pipe.vqvae))
    assert rows["Language model"] == f"LLaMA, {language:.2f} M parameters"
    assert rows["Image tokenizer"] == f"VQGAN, {tokens:.2f} M parameters, 32 codes"
    assert rows["Images"] == "16×16, 64 tokens each" and rows["Pairs of a prompt"] == "up to 7"
    assert rows["Weights"] == "float32, safetensors" and rows["Licence of the weights"] == "mit"
    assert card.text.lstrip().startswith("# mine\n") and "None was measured" not in card.text
    assert "after [" in card.text and "](https://arxiv.org/abs/2402.04841) ([official code](https://" in card.text
    assert card.data.tags == ["hf_effmodels", "delvm", "visual-prompting", "arxiv:2402.04841"]
    assert card.text.count('"org/mine"') == 2 and "{id}" not in card.text and "Numbers" in card.text
    plain = build_card(pipe)
    assert plain.text.lstrip().startswith("# DeLVM\n") and plain.text.count('"path/to/this/folder"') == 2
    named = build_card(pipe, preset="delvm-300m", dataset="SA-1B", results={"accuracy": 0.5}, training={"lr": 0.1})
    assert named.text.lstrip().startswith("# delvm-300m\n") and "50.00 %" in named.text and "18.84 %" in named.text
    assert "Trained on SA-1B" in named.text and "| lr | `0.1` |" in named.text
    with pytest.raises(ValueError, match="^repo_id: got 'a b', accepted is 'namespace/name'"):
        build_card(pipe, repo_id="a b")


def test_a_card_of_a_converted_pipeline_has_its_origin_and_a_licence_of_ones_own(pipe):
    own = {"license": "other", "license_name": "Mine", "license_link": "https://x.org/l"}
    file = {"source": "a.pt", "sha256": "ab" * 32, "entry": "the file itself", "converted": 12}
    card = build_card(pipe, preset="delvm-300m", conversion=file, **own)
    assert (card.data.license, card.data.license_name, card.data.license_link) == tuple(own.values())
    assert "[Mine](https://x.org/l)" in card.text and "ab" * 32 in card.text and "12 tensors of the file" in card.text
    assert "https://github.com/ggjy/DeLVM/releases" in card.text and "arXiv:2402.04841" in card.text


@pytest.mark.parametrize(
    "preset, table",
    [
        ("delvm-300m", {"SA-1B": (18.84, 106.81), "COCO-Pose": (20.32, 139.27), "Rain13K": (11.93, 269.04)}),
        ("delvm-1b", {"SA-1B": (19.72, 94.75), "COCO-Pose": (20.77, 129.95), "Rain13K": (12.20, 245.33)}),
    ],
)
def test_of_each_data_set_the_share_of_right_tokens_and_the_perplexity_are_published(preset, table):
    found = {(number.dataset, number.metric): number.value for number in hf_effmodels.model_info(preset).published}
    assert found == {
        (dataset, metric): value
        for dataset, (share, perplexity) in table.items()
        for metric, value in (("token accuracy", share), ("perplexity", perplexity))
    }
