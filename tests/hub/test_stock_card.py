"""The cards of somebody else's models: what they say, that their snippets run, and what is called their origin."""

import re

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    SamConfig,
    SamModel,
    ViTImageProcessorPil,
)

from hf_effmodels.hub.origin import origin
from hf_effmodels.hub.stock_card import stock_card, stock_usage
from hf_effmodels.training.data.text.tokenization import train_tokenizer

from .test_card_facts import facts_of

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
LLAMA = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
PIXELS = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3)


def network():
    return ResNetForImageClassification(ResNetConfig(**RESNET, id2label={0: "cat", 1: "dog"}, label2id=None))


def test_a_card_of_a_classifier_of_transformers_tells_its_size_its_classes_and_how_pictures_are_prepared():
    model = network()
    card = stock_card(model, "image-classification", processor=PIXELS, license="mit", multiply_adds="2 M for an image")
    count = sum(value.numel() for value in model.parameters())
    assert dict(facts_of(card)) == {
        "Type": "ResNetForImageClassification (resnet)",
        "Parameters": f"{count / 1e6:.3f} M",
        "Multiply-adds": "2 M for an image",
        "Input channels": "3",
        "Labels": "2: cat, dog",
        "Preparation": "ViTImageProcessor; size height 16, width 16; mean 0.5 0.5 0.5; std 0.25 0.25 0.25",
        "Weights": "float32, safetensors",
        "Licence of the weights": "mit",
    }
    assert (card.data.tags, card.data.library_name) == (["hf_effmodels", "resnet"], "transformers")
    assert card.data.pipeline_tag == "image-classification" and "needs the package" not in card.text
    needy = stock_card(model, "image-classification", needs_package=True)
    assert needy.data.library_name == "hf_effmodels" and "needs the package" in needy.text
    assert "```python\nimport hf_effmodels  #" in needy.text


def test_a_card_of_a_decoder_of_transformers_tells_its_words_and_its_context():
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=258, max_position_embeddings=64)).bfloat16()
    words = train_tokenizer(["one two three"], 258, 64)
    rows = dict(facts_of(stock_card(model, "text-generation", processor=words)))
    assert (rows["Vocabulary"], rows["Longest sequence"]) == ("258", "64 tokens")
    assert rows["Preparation"].endswith(f", {len(words)} tokens") and rows["Weights"] == "bfloat16, safetensors"
    assert "Labels" not in rows and "Input channels" not in rows and "Multiply-adds" not in rows


def test_a_card_of_a_promptable_model_of_transformers_tells_its_parts():
    with torch.device("meta"):
        rows = dict(facts_of(stock_card(SamModel(SamConfig()), "mask-generation")))
    assert (
        rows["Vision model"].startswith("sam_vision_model, width 768") and rows["Image size"] == "1024 × 1024 pixels"
    )


@pytest.mark.parametrize("task", ["image-classification", "text-generation"])
def test_the_snippet_of_a_card_runs_in_the_models_folder(task, tmp_path, monkeypatch, capsys):
    if task == "text-generation":
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**LLAMA, vocab_size=258, max_position_embeddings=64))
        processor = train_tokenizer(["one two three"], 258, 64)
    else:
        model, processor = network(), PIXELS
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall("```python\n(.*?)```", stock_card(model, task, processor=processor).text, re.DOTALL)
    exec(code, {})  # as a reader does who copies it
    assert ("cat" if task == "image-classification" else "Once upon a time") in capsys.readouterr().out


@pytest.mark.parametrize(
    "task, call",
    [
        ("object-detection", "print(pipe(image))"),
        ("image-segmentation", "print(pipe(image))"),
        ("mask-generation", 'print(len(pipe(image)["masks"]))'),
        ("zero-shot-image-classification", 'print(pipe(image, candidate_labels=["cat", "dog"]))'),
    ],
)
def test_each_task_is_shown_by_its_pipeline_and_on_the_hub_by_its_repository(task, call):
    usage = stock_usage(task, "transformers", "org/net")
    assert f'model_id = "org/net"\npipe = pipeline("{task}", model=model_id)\n' in usage and call in usage
    assert "in this folder" not in usage and "in this folder" in stock_usage(task, "transformers")


def test_the_origin_of_weights_is_an_id_of_the_hub_wherever_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert origin("org/net") == "org/net" and origin(None) is origin("resnet") is origin("ghostnetv3-1.0x") is None
    copy = tmp_path / "hub" / "models--org--net" / "snapshots" / ("0a" * 20)
    copy.mkdir(parents=True)
    assert origin(str(copy)) == "org/net"
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    assert origin(str(tuned)) is None
    for stated, expected in (
        ("base_model: org/base", "org/base"),
        ("base_model:\n- org/base", "org/base"),
        ("base_model:\n- org/base\n- org/other", None),
        ("base_model: /home/me/base", None),
        ("base_model: {", None),
        ("license: mit", None),
    ):
        (tuned / "README.md").write_text(f"---\n{stated}\n---\n\n# net\n")
        assert origin("tuned") == expected, stated
