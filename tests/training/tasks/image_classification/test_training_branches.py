"""`--training_branches`: trained with them, resumed with them, saved without."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, ResNetConfig, ViTImageProcessorPil

from hf_effmodels.training import main

from ..contract import same, weights


@pytest.fixture
def resnet(tmp_path):
    torch.manual_seed(0)
    config = ResNetConfig(
        hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8, layer_type="basic", num_labels=10, num_channels=1
    )
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "resnet")
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


def run(resnet, output, *more):
    return main(
        [
            *("--model", str(resnet), "--dataset", "digits", "--training_branches", "2", "--output_dir", str(output)),
            *("--max_train_samples", "40", "--max_eval_samples", "11", "--per_device_train_batch_size", "8"),
            *("--max_steps", "8", "--logging_steps", "1", "--learning_rate", "0.01", "--optim", "sgd"),
            *("--ema_decay", "0.8", "--eval_strategy", "steps", "--eval_steps", "4", "--save_steps", "4"),
            *("--save_strategy", "steps", "--horizontal_flip", "0", "--disable_tqdm", "true"),
            *("--metric_for_best_model", "loss"),
            *more,
        ]
    )


def test_a_trained_network_is_the_plain_one_and_measured_as_in_the_run(resnet, tmp_path):
    results = run(resnet, tmp_path / "out")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    names = load_file(resnet / "model.safetensors").keys()
    assert "training_branches: 2" in (tmp_path / "out/training_config.yaml").read_text()
    assert load_file(tmp_path / "out/model.safetensors").keys() == names
    in_training = load_file(tmp_path / "out/checkpoint-8/model.safetensors").keys()
    assert any(".branches.1." in name for name in in_training) and len(in_training) > 2 * len(names)
    log = json.loads((tmp_path / "out/trainer_state.json").read_text())["log_history"]
    best = min(entry["eval_loss"] for entry in log if "eval_loss" in entry and entry["step"] in (4, 8))
    assert results["eval_loss"] == pytest.approx(best, rel=1e-4)
    before = AutoModelForImageClassification.from_pretrained(resnet)
    pixels = torch.randn(1, 1, 16, 16)
    assert not torch.allclose(before.eval()(pixels).logits, model.eval()(pixels).logits, atol=1e-3)


def test_a_run_goes_on_with_its_branches(resnet, tmp_path):
    run(resnet, tmp_path / "whole")
    run(resnet, tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoint-8")
    run(resnet, tmp_path / "again", "--resume_from_checkpoint", "true")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "again"))


def test_a_student_with_branches_learns_from_a_teacher_and_is_plain_afterwards(resnet, tmp_path):
    torch.manual_seed(1)
    config = ResNetConfig(
        hidden_sizes=[8], depths=[1], embedding_size=8, layer_type="basic", num_labels=10, num_channels=1
    )
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "teacher")
    ViTImageProcessorPil.from_pretrained(resnet).save_pretrained(tmp_path / "teacher")
    losses = "{soft_targets: {weight: 1}, fitnet: {stages: [1]}}"
    task = ("--task", "distillation", "--teacher", str(tmp_path / "teacher"), "--losses", losses)
    results = run(resnet, tmp_path / "out", *task, "--max_steps", "4")
    assert results["eval_loss"] > 0 and "eval_teacher_accuracy" in results
    names = load_file(resnet / "model.safetensors").keys()
    assert load_file(tmp_path / "out/model.safetensors").keys() == names


def test_what_has_no_pairs_is_refused_in_words(convnext_folder, tmp_path):
    with pytest.raises(ValueError, match="--training_branches: model: ConvNextForImageClassification has no convol"):
        run(convnext_folder, tmp_path / "out")
    with pytest.raises(ValueError, match="--training_branches: got 0"):
        run(convnext_folder, tmp_path / "out", "--training_branches", "0")
