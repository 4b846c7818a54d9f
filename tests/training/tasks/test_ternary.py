"""`--bitnet`: ternary weights in both tasks that have the option."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from hf_effmodels.quantization.bitnet158.bitlinear import BitLinear
from hf_effmodels.training import evaluate, main

from ...processes import run_in_two
from .contract import history, weights


def ternary_layers(model):
    return [module for module in model.modules() if isinstance(module, BitLinear)]


def test_a_language_model_is_trained_evaluated_and_resumed_with_ternary_weights(text_run, text_file, tmp_path):
    run = [*text_run, "--bitnet", "median", "--save_strategy", "steps", "--save_steps", "4"]
    run += ["--save_total_limit", "9", "--bitnet_warmup_steps", "6"]
    results = main([*run, "--output_dir", str(tmp_path / "run")])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert {layer.scale for layer in ternary_layers(model)} == {"median"}
    assert type(model.lm_head) is torch.nn.Linear
    # The folder for the Hub carries the layers: without them it would load as a network in full precision.
    assert (tmp_path / "run" / "hub" / "bitlinear.py").exists() and (tmp_path / "run" / "README.md").exists()

    measured = evaluate(
        ["--task", "causal-lm", "--model", str(tmp_path / "run"), "--dataset", str(text_file), "--text_unit", "line"]
        + ["--block_size", "16", "--eval_fraction", "0.1"]
        + ["--output", str(tmp_path / "evaluation.json")]
    )
    assert measured["loss"] == pytest.approx(results["eval_loss"], rel=1e-4)

    # Without the later checkpoints the run goes on within the warm-up, to the same weights.
    expected = weights(tmp_path / "run")
    again = shutil.copytree(tmp_path / "run", tmp_path / "again")
    for checkpoint in again.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-4":
            shutil.rmtree(checkpoint)
    (again / "model.safetensors").unlink()
    resumed = main([*run, "--output_dir", str(again), "--resume_from_checkpoint", str(again / "checkpoint-4")])
    assert resumed["eval_loss"] == results["eval_loss"]
    assert all(torch.equal(value, expected[name]) for name, value in weights(again).items())
    plain = main([*text_run, "--output_dir", str(tmp_path / "plain")])
    assert plain["eval_loss"] != results["eval_loss"]
    at_once = main([*run[:-2], "--output_dir", str(tmp_path / "cold")])
    assert at_once["eval_loss"] != results["eval_loss"]


def test_an_image_classifier_is_trained_with_ternary_weights(digits_run, tmp_path):
    main([*digits_run, "--bitnet", "mean", "--output_dir", str(tmp_path / "run")])
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert {layer.scale for layer in ternary_layers(model)} == {"mean"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["quantization_config"]["scale"] == "mean"
    # Which is trained on as it is, to the best checkpoint.
    on = [*digits_run[2:], "--model", str(tmp_path / "run"), "--max_steps", "2"]
    main([*on, "--output_dir", str(tmp_path / "on")])
    assert ternary_layers(AutoModelForImageClassification.from_pretrained(tmp_path / "on"))


def in_float64(argv):
    """`main` in double precision: in single, rounding errors move weights and inputs to the next of their levels."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        main(argv)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.thorough
@pytest.mark.parametrize("scale", ["mean", "median"])
def test_processes_and_accumulated_batches_make_the_steps_of_one_batch(scale, text_run, tmp_path):
    run = [*text_run, "--bitnet", scale, "--bitnet_warmup_steps", "3", "--max_steps", "5"]
    run += ["--optim", "sgd", "--learning_rate", "0.1"]  # Adam divides by how small a gradient is
    one, two, ones = (str(tmp_path / name) for name in ("one", "two", "ones"))
    in_float64([*run, "--output_dir", one])
    run_in_two(in_float64, [*run, "--per_device_train_batch_size", "2", "--output_dir", two])
    accumulated = ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"]
    in_float64([*run, *accumulated, "--output_dir", ones])
    expected = weights(one)
    for other in (two, ones):
        np.testing.assert_allclose(history(other, "loss"), history(one, "loss"), rtol=1e-5)
        for name, value in weights(other).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


def test_what_cannot_be_ternary_is_refused(text_run, digits_run, tmp_path):
    with pytest.raises(ValueError, match="--bitnet_warmup_steps: got 3, but --bitnet is none"):
        main([*text_run, "--bitnet_warmup_steps", "3", "--output_dir", str(tmp_path / "run")])
    net = '{"stem_size": 8, "stages": [[[3, 8, 8, 0, 1]]], "final_size": 8, "head_size": 8}'
    run = digits_run[2:]  # another model
    with pytest.raises(ValueError, match="--bitnet: got mean.*has no linear layers beside its head"):
        main(
            ["--model", "ghostnetv3-1.0x", "--image_size", "16", "--model_config", net, *run, "--bitnet", "mean"]
            + ["--output_dir", str(tmp_path / "run")]
        )
    assert not (tmp_path / "run").exists()
