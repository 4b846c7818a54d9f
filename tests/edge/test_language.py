"""An exported language model reads, goes on and is asked as the model is."""

import json

import pytest
import torch
import transformers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    pipeline,
)

import hf_effmodels
from hf_effmodels.cli import main
from hf_effmodels.edge_language import export_language_model, load_language_model
from hf_effmodels.training.data.text.tokenization import train_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXTS = ["The cat sat on the mat and the dog on the log.", "the dog"]


def of_transformers(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES, num_key_value_heads=2, vocab_size=vocabulary, initializer_range=0.3, pad_token_id=0, eos_token_id=1
    )
    return LlamaForCausalLM(config).eval()


def generated(model, **inputs) -> list:
    return model.generate(**inputs, max_new_tokens=9, do_sample=False, pad_token_id=0).tolist()


def test_a_program_goes_on_as_the_model_does_alone_in_batches_and_in_the_pipeline(tmp_path, capsys):
    tokenizer = train_tokenizer(TEXTS, 300, at_most=True)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.pad_token or tokenizer.eos_token, "left"
    model = of_transformers(len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "edge"), "--format", "onnx"]) == 0
    assert "difference" in capsys.readouterr().out
    assert not (tmp_path / "edge" / "model.onnx.data").stat().st_size, "a program is one file"
    program = load_language_model(tmp_path / "edge")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert not inputs.attention_mask.all(), "one of them is filled up"
    expected = generated(model, **inputs)
    assert generated(program, **inputs) == expected and len({tuple(row[-9:]) for row in expected}) == 2
    assert generated(program, **inputs, num_beams=3) == generated(model, **inputs, num_beams=3)
    said = pipeline("text-generation", model=program, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "edge"))
    [answer] = said(TEXTS[1], max_new_tokens=5, do_sample=False, return_full_text=False)
    told = []
    for folder in ("model", "edge"):
        assert main(["predict", str(tmp_path / folder), TEXTS[1], "--max-new-tokens", "5", "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out)["text"])
    assert told == [answer["generated_text"]] * 2


@pytest.mark.thorough
def test_our_own_language_model_runs_as_well(tmp_path):
    torch.manual_seed(0)
    model = hf_effmodels.create_model("pangu-pi-15m", **{**SIZES, "num_hidden_layers": 1}, vocab_size=99).eval()
    report = export_language_model(model, tmp_path / "edge")
    assert report.difference <= 1e-4 and report.bytes > 10_000
    prompt = {"input_ids": torch.tensor([[5, 17, 60, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    assert generated(load_language_model(tmp_path / "edge"), **prompt) == generated(model, **prompt)


def test_what_cannot_be_exported_is_said_and_leaves_nothing(tmp_path, capsys):
    window = MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, vocab_size=99, sliding_window=8))
    with pytest.raises(ValueError, match=r"MistralForCausalLM cannot be exported: its layers keep DynamicSliding.*"):
        export_language_model(window, tmp_path / "edge")
    with pytest.raises(ValueError, match="format: got 'openvino', accepted of language models are 'onnx'"):
        export_language_model(window, tmp_path / "edge", "openvino")
    with pytest.raises(ValueError, match="source: got Linear, accepted are causal language models"):
        export_language_model(torch.nn.Linear(1, 1), tmp_path / "edge")
    of_transformers(99).save_pretrained(tmp_path / "model")
    for argv, message in (
        (["pangu-pi-15m"], "MODEL: the weights of pangu-pi-15m are random"),
        ([str(tmp_path / "model"), "--precision", "fp16"], "--precision: got 'fp16', which language models are not"),
        ([str(tmp_path / "model"), "--image-size", "32"], "--image-size: got 32, but language models take no images"),
    ):
        assert main(["export", argv[0], str(tmp_path / "edge"), "--format", "onnx", *argv[1:]]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "edge").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["Mistral", "Qwen2", "Phi", "Gemma", "GPT2"])
def test_language_models_of_others_are_exported_with_their_own_logits(name, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes["num_key_value_heads"] = 4
    tokens = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    own = {"Mistral": {"sliding_window": None}, "Gemma": {"head_dim": 8}}.get(name, {})
    if name == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = getattr(transformers, f"{name}Config")(**sizes, **tokens, **own)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert export_language_model(model, tmp_path / "program").model == type(model).__name__  # it compares the logits
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        expected = model(ids).logits
    got = load_language_model(tmp_path / "program")(ids).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
