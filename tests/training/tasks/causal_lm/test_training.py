"""Whole runs: exact loss and perplexity, what is logged, and what lies in the output folder afterwards."""

import json
import math
import shlex

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.tasks.causal_lm.throughput import flops_per_token

from ...conftest import MIXTURE
from ..contract import history, weights


def test_a_run_ends_with_a_model_a_card_and_a_hub_folder_that_generate(text_run, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    text_run += [
        "--sample_prompt",
        "Line",
        "--sample_tokens",
        "5",
        "--peak_tflops",
        "0.001",
        "--license",
        "apache-2.0",
    ]
    results = main([*text_run, "--output_dir", str(tmp_path / "run")])
    folder = tmp_path / "run"
    assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    text = json.loads((folder / "text.json").read_text())
    assert text["training"]["documents"] == 36 and text["evaluation"]["documents"] == 4
    bits = results["eval_loss"] * results["eval_tokens"] / math.log(2) / text["evaluation"]["bytes"]
    assert results["eval_bits_per_byte"] == pytest.approx(bits)
    assert (folder / "training_curve.png").is_file()
    assert (folder / "sample.txt").read_text().startswith("Line") and "Line" in capsys.readouterr().out
    assert yaml.safe_load((folder / "training_config.yaml").read_text())["task"] == "causal-lm"

    logged = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    speeds = [(entry["tokens_per_second"], entry["mfu"]) for entry in logged if "loss" in entry]
    model = AutoModelForCausalLM.from_pretrained(folder)
    for speed, mfu in speeds:
        assert mfu == pytest.approx(speed * flops_per_token(model, 16) / 1e9, rel=1e-3)
    assert model.config.use_cache
    # The command that is named next measures the documents that were held out, not those that were trained on.
    said = [record.getMessage() for record in caplog.records]
    again = evaluate(shlex.split(said[said.index("next:") + 1])[2:])
    assert (again["tokens"], again["loss"]) == (results["eval_tokens"], pytest.approx(results["eval_loss"], rel=1e-6))

    card = (folder / "hub" / "README.md").read_text()
    assert "pangu_pi" in card and "perplexity" in card and "bits_per_byte" in card
    for place in (folder, folder / "hub"):
        write = pipeline("text-generation", model=str(place))
        assert write("Line", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("Line")
    assert torch.equal(model.lm_head.weight, AutoModelForCausalLM.from_pretrained(folder / "hub").lm_head.weight)


def test_evaluation_weighs_every_token_of_the_text_the_same(text_run, text_file, tmp_path):
    # Documents shorter than a block: each alone, token by token, gives what the packed evaluation must give.
    text_run += ["--document_attention", "separate", "--model_config", "{hidden_size: 32, num_hidden_layers: 1}"]
    main([*text_run, "--max_steps", "2", "--block_size", "200", "--output_dir", str(tmp_path / "run")])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    texts = text_file.read_text().splitlines()[:5]
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            losses = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])
        total, count = total - float(losses.sum()), count + len(losses)
    (tmp_path / "five.txt").write_text("\n".join(texts) + "\n")
    options = ["--task", "causal-lm", "--dataset", str(tmp_path / "five.txt"), "--text_unit", "line"]
    options += ["--model", str(tmp_path / "run"), "--document_attention", "separate", "--block_size", "512"]
    for batch in ("1", "2"):
        output = ["--per_device_eval_batch_size", batch, "--output", str(tmp_path / "e.json")]
        results = evaluate([*options, *output])
        assert results["tokens"] == count and results["bytes"] == sum(len(text) for text in texts)
        assert results["loss"] == pytest.approx(total / count, rel=1e-5)
    assert json.loads((tmp_path / "e.json").read_text()) == results


def test_accumulated_batches_of_a_mixture_train_as_one_batch(text_run, tmp_path):
    text_run += ["--model", "parameternet-moe-1b", "--model_config", MIXTURE]
    text_run += ["--optim", "sgd", "--learning_rate", "0.5", "--max_grad_norm", "0", "--max_steps", "4"]
    small = ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"]
    main([*text_run, "--output_dir", str(tmp_path / "one")])
    main([*text_run, *small, "--output_dir", str(tmp_path / "four")])
    one, four = (history(tmp_path / name, "loss", "grad_norm") for name in ("one", "four"))
    assert one == pytest.approx(four, rel=1e-4)


def test_a_mixture_logs_its_balance_loss_and_the_load_of_its_experts(text_run, tmp_path):
    text_run += [
        "--model",
        "parameternet-moe-1b",
        "--model_config",
        MIXTURE,
        "--max_steps",
        "4",
        "--logging_steps",
        "2",
    ]
    main([*text_run, "--output_dir", str(tmp_path / "run")])
    logged = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in logged if "loss" in entry]
    assert len(entries) == 2
    for entry in entries:
        assert entry["balance_loss"] > 0.99
        for layer in (0, 1):
            assert 0 <= entry[f"expert_load_min/layer_{layer}"] <= 0.25 <= entry[f"expert_load_max/layer_{layer}"] <= 1
    layers = json.loads((tmp_path / "run" / "expert_load.json").read_text())["layers"]
    assert [len(load) for load in layers] == [4, 4]
    for layer, load in enumerate(layers):
        assert sum(load) == pytest.approx(1, abs=1e-5)
        assert max(load) == pytest.approx(entries[-1][f"expert_load_max/layer_{layer}"], abs=1e-5)


def test_the_speed_is_that_of_all_processes_together(text_run, tmp_path, monkeypatch):
    text_run += ["--peak_tflops", "0.5", "--output_dir", str(tmp_path / "run")]
    trainer = prepare("prepare_training", text_run).trainer
    trainer._tokens, trainer._flops_per_token = 600, 1e8
    monkeypatch.setattr(trainer.watch, "lap", lambda: 2.0)
    # The other two processes have seen 100 and 200 tokens.
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda own, how: {"sum": own + 300}[how])
    monkeypatch.setattr(type(trainer.args), "world_size", 3)
    speed = trainer._speed()
    assert speed == {"tokens_per_second": 450.0, "mfu": pytest.approx(450 * 1e8 / (3 * 0.5e12))}
    assert trainer._speed()["tokens_per_second"] == 150.0  # counted from there on


def test_any_decoder_of_transformers_trains_from_random_weights_and_trains_on(text_run, tmp_path):
    llama = ["--model", "llama", "--model_config", "{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, "]
    llama[-1] += "num_attention_heads: 2, tie_word_embeddings: true}"
    main([*text_run, *llama, "--output_dir", str(tmp_path / "first")])
    before = weights(tmp_path / "first")
    on = ["--model", str(tmp_path / "first"), "--model_config", "{}", "--tokenizer", str(tmp_path / "first")]
    main([*text_run, *on, "--learning_rate", "1e-9", "--output_dir", str(tmp_path / "second")])
    after = weights(tmp_path / "second")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "second").config.model_type == "llama"
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert "perplexity" in (tmp_path / "second" / "README.md").read_text()


def test_flops_per_token_are_those_of_the_layers_a_token_passes():
    import hf_effmodels

    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    dense = hf_effmodels.create_model("pangu-pi-15m", **sizes, num_attention_heads=2, series_activations=[])
    layer = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32
    assert flops_per_token(dense, 64) == 6 * (2 * layer + 100 * 32) + 12 * 2 * 32 * 64
    # Scales and biases act on each channel by itself.
    series = hf_effmodels.create_model("pangu-pi-15m", **sizes, num_attention_heads=2)
    tied = hf_effmodels.create_model("pangu-pi-15m", **sizes, num_attention_heads=2, tie_word_embeddings=True)
    assert flops_per_token(series, 64) == flops_per_token(tied, 64) == flops_per_token(dense, 64)
    layer = 4 * 32 * 32 + 3 * 32 * 48 + 4 * 48
    for expert_bias in (False, True):
        mixture = hf_effmodels.create_model(
            "parameternet-moe-1b", **sizes, num_attention_heads=2, num_local_experts=4, expert_bias=expert_bias
        )
        assert flops_per_token(mixture, 64) == 6 * (2 * layer + 100 * 32) + 12 * 2 * 32 * 64
    # Of a mixture of transformers, two of four experts and the router; GPT-2's own linear layers.
    small = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    mixtral = AutoConfig.for_model(
        "mixtral", **small, intermediate_size=48, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    )
    layer = 4 * 32 * 32 + 2 * 3 * 32 * 48 + 4 * 32
    found = flops_per_token(AutoModelForCausalLM.from_config(mixtral), 64)
    assert found == 6 * (2 * layer + 100 * 32) + 12 * 2 * 32 * 64
    # Heads of a width of their own, and experts that are called otherwise.
    other = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
    qwen = AutoConfig.for_model("qwen3_moe", **small, num_key_value_heads=1, head_dim=48, **other)
    layer = 2 * 32 * 96 + 2 * 32 * 48 + 2 * 3 * 32 * 24 + 6 * 32
    found = flops_per_token(AutoModelForCausalLM.from_config(qwen), 64)
    assert found == 6 * (2 * layer + 100 * 32) + 12 * 2 * 96 * 64
    # With an expert for all tokens beside them, and its gate.
    other |= {"shared_expert_intermediate_size": 40}
    qwen = AutoConfig.for_model("qwen2_moe", **small, num_key_value_heads=1, **other)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 2 * 3 * 32 * 24 + 6 * 32 + 3 * 32 * 40 + 32
    found = flops_per_token(AutoModelForCausalLM.from_config(qwen), 64)
    assert found == 6 * (2 * layer + 100 * 32) + 12 * 2 * 32 * 64
    gpt2 = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **small, bos_token_id=1, eos_token_id=1))
    assert flops_per_token(gpt2, 64) == 6 * (2 * 12 * 32 * 32 + 100 * 32) + 12 * 2 * 32 * 64
