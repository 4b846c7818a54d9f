"""Whole runs through the entry point, in this process."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, pipeline

import hf_effmodels
from hf_effmodels.hub.contents import model_files
from hf_effmodels.hub.export import is_export
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.run.arguments import blaming_model_config
from hf_effmodels.training.run.output_folder import WEIGHTS_WITHOUT_EMA
from hf_effmodels.training.tasks.image_classification.data import ImageClassificationDataset
from hf_effmodels.training.tasks.image_classification.mixing import smooth_one_hot

from .test_data import write_parquet

#: GhostNetV3 for 16 pixels: every kind of layer, and dropout, which draws from the global generator.
TINY_GHOSTNET = {
    "stem_size": 8,
    "stages": [[[3, 8, 8, 0, 1]], [[3, 24, 12, 0, 2], [3, 24, 12, 0.25, 1]]],
    "final_size": 32,
    "head_size": 16,
    "classifier_dropout": 0.2,
}
GHOSTNET = ["--model", "ghostnetv3-1.0x", "--image_size", "16", "--model_config", json.dumps(TINY_GHOSTNET)]


def history(folder, *keys):
    log = json.loads((Path(folder) / "trainer_state.json").read_text())["log_history"]
    return np.array([[entry[key] for key in keys] for entry in log if keys[0] in entry])


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.draws
def test_a_run_leaves_everything_beside_the_model_and_the_pipeline_knows_the_names(digits_run, tmp_path, monkeypatch):
    output = tmp_path / "run"
    arguments = [*digits_run, *GHOSTNET, "--ema_decay", "0.5", "--license", "mit", "--output_dir", str(output)]
    results = main(arguments)
    files = {path.name for path in output.iterdir() if path.is_file()}
    assert files == {
        *("README.md", "all_results.json", "eval_results.json", "train_results.json", "trainer_state.json"),
        *("config.json", "model.safetensors", "preprocessor_config.json", "training_config.yaml"),
        *(
            "confusion_matrix.png",
            "training_curve.png",
            "example.png",
            "per_class.csv",
            "calibration.png",
            "mistakes.png",
        ),
    }
    stored = json.loads((output / "all_results.json").read_text())
    assert stored["eval_samples"] == 11 and stored["eval_accuracy"] == results["eval_accuracy"]
    for name in ("confusion_matrix.png", "training_curve.png", "calibration.png", "mistakes.png"):
        with Image.open(output / name) as picture:
            assert len(picture.convert("L").getcolors()) > 10
    card = (output / "README.md").read_text()
    assert "license: mit" in card and f"{100 * results['eval_accuracy']:.2f} %" in card and "ema_decay" in card
    assert (output / "training_config.yaml").read_text().count("task: image-classification") == 1
    # What is beside it for the Hub is whole: code, card, and the same weights.
    assert is_export(output / "hub")
    # The card beside the checkpoints does not promise code that only `hub/` has; what it shows is there.
    hub_card = (output / "hub" / "README.md").read_text()
    assert "carries the model's code" in hub_card and "trust_remote_code=True" in hub_card
    assert "carries the model's code" not in card and "trust_remote_code" not in card
    charts = {"training_curve.png", "confusion_matrix.png", "calibration.png"}
    for folder, text in ((output, card), (output / "hub", hub_card)):
        assert set(re.findall(r"!\[[^]]+\]\((.*?)\)", text)) == charts
        assert all((folder / name).is_file() for name in charts)
        assert "(samples: 40 of training, 11 of test)" in text and "Trained on digits" in text
    assert charts < set(model_files(output / "hub")) and not (output / "hub" / "mistakes.png").exists()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[:1]
    monkeypatch.chdir(output)
    exec(compile(snippet, "card", "exec"), {})
    monkeypatch.undo()
    assert all(torch.equal(value, weights(output)[name]) for name, value in weights(output / "hub").items())
    # The model that was measured is the one that was saved.
    measured = evaluate(
        *[
            [
                "--model",
                str(output),
                "--dataset",
                "digits",
                "--max_eval_samples",
                "11",
                "--output",
                f"{tmp_path}/e.json",
            ]
        ]
    )
    assert measured["loss"] == pytest.approx(results["eval_loss"], rel=1e-5)
    assert measured["accuracy"] == results["eval_accuracy"] and measured["samples"] == 11
    assert json.loads((tmp_path / "e.json").read_text()) == measured
    labels = pipeline("image-classification", model=str(output))(Image.new("RGB", (20, 20)), top_k=10)
    assert {entry["label"] for entry in labels} == set("0123456789")


def test_the_saved_model_is_the_moving_average_and_the_checkpoint_keeps_both(digits_run, tmp_path):
    arguments = [*digits_run, *GHOSTNET, "--ema_decay", "0.9", "--load_best_model_at_end", "false"]
    main([*arguments, "--output_dir", str(tmp_path / "ema")])
    main([*digits_run, *GHOSTNET, "--load_best_model_at_end", "false", "--output_dir", str(tmp_path / "plain")])
    average, plain = weights(tmp_path / "ema"), weights(tmp_path / "plain")
    raw = load_file(tmp_path / "ema" / "checkpoint-10" / WEIGHTS_WITHOUT_EMA)
    # Averaging does not change the training, evaluations on the average included.
    assert all(torch.equal(raw[name], plain[name]) for name in plain)
    assert not any(torch.allclose(average[name], plain[name]) for name in plain if name.endswith("running_var"))
    saved = weights(tmp_path / "ema" / "checkpoint-10")
    assert all(torch.equal(saved[name], average[name]) for name in average)


def test_each_epoch_sees_every_picture_once_in_an_order_of_its_own(digits_run, tmp_path, monkeypatch):
    asked_for = []
    read = ImageClassificationDataset.__getitem__

    def record(self, number):
        if self.seed is not None:
            asked_for.append(number)
        return read(self, number)

    monkeypatch.setattr(ImageClassificationDataset, "__getitem__", record)
    main([*digits_run, "--output_dir", str(tmp_path / "run")])
    epochs, pictures = np.divmod(np.array(asked_for[1:]), 40)  # the first is the check before training
    assert epochs.tolist() == [0] * 40 + [1] * 40
    assert all(sorted(epoch) == list(range(40)) for epoch in (pictures[:40], pictures[40:]))
    assert pictures[:40].tolist() != pictures[40:].tolist()


@pytest.mark.parametrize("smoothing", [pytest.param("0", marks=pytest.mark.thorough), "0.1"])
def test_eight_small_batches_give_the_gradient_of_one_large(digits_run, tmp_path, smoothing):
    digits_run += ["--max_train_samples", "22", "--max_grad_norm", "0", "--label_smoothing_factor", smoothing]
    digits_run += ["--train_crop", "random_resized", "--mixup", "0", "--eval_strategy", "no", "--save_strategy", "no"]
    digits_run += ["--load_best_model_at_end", "false"]
    runs = {}
    for batch, steps in ((8, 1), (1, 8), (3, 3)):
        size = ["--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps)]
        main([*digits_run, *size, "--output_dir", str(tmp_path / f"{batch}x{steps}")])
        runs[batch, steps] = history(tmp_path / f"{batch}x{steps}", "loss", "grad_norm", "learning_rate")
    assert len(runs[8, 1]) == 6  # two epochs of 8, 8 and 6 images: the last step is smaller than the others
    np.testing.assert_allclose(runs[1, 8], runs[8, 1], rtol=1e-5)
    a, b = (weights(tmp_path / name) for name in ("8x1", "1x8"))
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    # Nine images a step: the first gradient is that of nine images, not of three.
    main([*digits_run, "--per_device_train_batch_size", "9", "--output_dir", str(tmp_path / "9x1")])
    np.testing.assert_allclose(runs[3, 3], history(tmp_path / "9x1", "loss", "grad_norm", "learning_rate"), rtol=1e-5)


def test_gradient_checkpointing_and_mixed_batches_change_no_gradient(digits_run, tmp_path):
    digits_run += [
        *GHOSTNET,
        "--mixup",
        "0.8",
        "--cutmix",
        "1",
        "--label_smoothing_factor",
        "0.1",
        "--num_train_epochs",
        "1",
    ]
    digits_run += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    main([*digits_run, "--output_dir", str(tmp_path / "plain")])
    main([*digits_run, "--gradient_checkpointing", "true", "--output_dir", str(tmp_path / "checkpointing")])
    a, b = (history(tmp_path / name, "loss", "grad_norm") for name in ("plain", "checkpointing"))
    np.testing.assert_allclose(a, b, rtol=1e-4)
    assert (a[:, 0] > 1.5).all()  # of soft labels over ten classes: about log 10


def test_bfloat16_trains_on_a_cpu_and_keeps_float32_weights(digits_run, tmp_path):
    main(
        [
            *digits_run,
            "--bf16",
            "true",
            "--optim",
            "lamb",
            "--ema_decay",
            "0.9",
            "--output_dir",
            str(tmp_path / "bf16"),
        ]
    )
    assert {tensor.dtype for tensor in weights(tmp_path / "bf16").values()} == {torch.float32}
    assert np.isfinite(history(tmp_path / "bf16", "loss", "grad_norm")).all()


@pytest.mark.parametrize("channels", ["1", "4"])
def test_the_model_may_have_other_channels(digits_run, tmp_path, channels):
    output = str(tmp_path / "run")
    main([*digits_run, *GHOSTNET, "--num_channels", channels, "--num_train_epochs", "1", "--output_dir", output])
    model = AutoModelForImageClassification.from_pretrained(output)
    assert model.config.num_channels == int(channels)
    arguments = [
        "--model",
        output,
        "--dataset",
        "digits",
        "--max_eval_samples",
        "11",
        "--output",
        f"{tmp_path}/e.json",
    ]
    assert evaluate(arguments)["samples"] == 11
    assert evaluate([*arguments, "--reparameterize", "true", "--overwrite", "true"])["samples"] == 11


def test_weight_decay_and_optimizers_are_those_asked_for(digits_run, tmp_path):
    options = [
        "--optim",
        "lamb",
        "--weight_decay",
        "0.05",
        "--adam_epsilon",
        "1e-6",
        "--output_dir",
        str(tmp_path / "o"),
    ]
    trainer = prepare("prepare_training", [*digits_run, *GHOSTNET, *options]).trainer
    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == "Lamb"
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == 0.05 and all(p.ndim >= 2 for p in decayed["params"])
    assert free["weight_decay"] == 0 and all(p.ndim < 2 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(trainer.model.parameters()))
    assert (optimizer.defaults["eps"], optimizer.defaults["max_grad_norm"]) == (1e-6, None)


def test_layers_below_the_classifier_learn_more_slowly_on_demand(digits_run, tmp_path):
    options = ["--layer_decay", "0.5", "--optim", "lamb", "--output_dir", str(tmp_path / "run")]
    trainer = prepare("prepare_training", [*digits_run, *GHOSTNET, *options]).trainer
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    of = {name: rates[id(parameter)] for name, parameter in trainer.model.named_parameters()}
    assert {rate for name, rate in of.items() if name.startswith("classifier")} == {0.05}
    assert {rate for name, rate in of.items() if ".stages.1." in name} == {0.05 / 2}
    assert {rate for name, rate in of.items() if ".stages.0." in name} == {0.05 / 4}
    assert {rate for name, rate in of.items() if ".stem." in name} == {0.05 / 8}


def test_losses_are_the_mean_over_all_images_of_a_step(digits_run, tmp_path):
    options = ["--label_smoothing_factor", "0.1", "--output_dir", str(tmp_path / "run")]
    logits, labels = torch.randn(6, 10), torch.arange(6)
    soft = smooth_one_hot(labels, 10, 0.1)
    cross = -(soft * logits.log_softmax(1)).sum() / 12
    binary = -(soft * logits.sigmoid().log() + (1 - soft) * (-logits).sigmoid().log()).sum() / 120
    for loss, expected in (("cross_entropy", cross), ("binary_cross_entropy", binary)):
        trainer = prepare("prepare_training", [*digits_run, *options, "--loss", loss]).trainer
        trainer.model.train()
        # Six of the step's twelve images; the Trainer counts the elements of the labels.
        of_classes = trainer.classification_loss({"logits": logits}, labels, torch.tensor(12))
        of_mixtures = trainer.classification_loss({"logits": logits}, soft, torch.tensor(120))
        torch.testing.assert_close((of_classes, of_mixtures), (expected, expected))
        trainer.model.eval()
        plain = trainer.classification_loss({"logits": logits}, labels)
        torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, labels))
        # Of probabilities as well it is the mean over the batch where nobody has counted, and exact in any precision.
        torch.testing.assert_close(trainer.classification_loss({"logits": logits}, soft), 2 * cross)
        assert trainer.classification_loss({"logits": logits.bfloat16()}, labels).dtype == torch.float32


COSINE = [0.5 * (1 + np.cos(np.pi * t / 8)) for t in range(8)]
SCHEDULES = {
    "cosine": (["--min_lr", "0.01", "--warmup_steps", "2"], [0, 0.025, *(0.01 + 0.04 * c for c in COSINE)]),
    "warmup_cosine": (["--min_lr", "0.01", "--warmup_steps", "2"], [0, 0.05, *(0.01 + 0.04 * c for c in COSINE)]),
    "cosine_over_warmup": (
        ["--min_lr", "0.01", "--warmup_steps", "2", "--lr_scheduler_kwargs", '{"warmup_lr": 0.02}'],
        [0.02, 0.035, *(0.01 + 0.04 * 0.5 * (1 + np.cos(np.pi * t / 10)) for t in range(2, 10))],
    ),
    "step": (
        ["--lr_scheduler_kwargs", '{"decay_epochs": 1, "decay_rate": 0.5, "warmup_epochs": 0}'],
        [0.05] * 5 + [0.025] * 5,
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_follows_the_schedule(digits_run, tmp_path, schedule):
    options, expected = SCHEDULES[schedule]
    options = [*options, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    main([*digits_run, "--lr_scheduler_type", schedule, *options, "--output_dir", str(tmp_path / "run")])
    rates = history(tmp_path / "run", "learning_rate", "loss")[:, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (["--task", "dancing"], ValueError, "--task.*'dancing'.*'image-classification'"),
        (["--model", "ghostnetv3-1x"], ValueError, "unknown preset 'ghostnetv3-1x'.*ghostnetv3-1.0x"),
        (["--model", "org/not-in-the-cache"], OSError, "org/not-in-the-cache"),
        (["--model_config", "{hidden_size: 3}"], ValueError, "hidden_size.*hidden_sizes"),
        ([*GHOSTNET, "--model_config", "{widht_multiplier: 3}"], ValueError, "widht_multiplier.*width_multiplier"),
        (["--num_channels", "5"], ValueError, "--num_channels.*5"),
        ([*GHOSTNET, "--image_size", "2"], ValueError, "too small"),
        (
            ["--task", "distillation", "--losses", "{lsskd: {}}", "--sorted_submodels", "[1, 2]"],
            ValueError,
            "--sorted_submodels",
        ),
        (
            ["--dataset", "org/not-in-the-cache"],
            OSError,
            "--dataset: 'org/not-in-the-cache' cannot be found or reached",
        ),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(digits_run, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        main([*digits_run, "--output_dir", str(tmp_path / "run"), *options])
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_head_for_other_classes_is_replaced_only_on_demand(digits_run, tmp_path, convnext_folder):
    from transformers import ConvNextForImageClassification

    folder = tmp_path / "three"
    ConvNextForImageClassification.from_pretrained(
        convnext_folder, num_labels=3, ignore_mismatched_sizes=True
    ).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes((convnext_folder / "preprocessor_config.json").read_bytes())
    options = ["--model", str(folder), "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="head for 3 classes, the data set has 10.*--ignore_mismatched_sizes"):
        main([*digits_run, *options])
    main([*digits_run, *options, "--ignore_mismatched_sizes", "true"])
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run").config.num_labels == 10
    with pytest.raises(ValueError, match="classes.*are not the model's"):
        evaluate(["--model", str(folder), "--dataset", "digits", "--output", str(tmp_path / "e.json")])


def test_a_class_that_neither_the_data_nor_the_model_has_is_refused(convnext_folder):
    arguments = ["--model", str(convnext_folder), "--dataset", "digits", "--classes", "1", "2"]
    with pytest.raises(ValueError, match="^--classes: neither digits/test nor the model has a class '77'; the model "):
        evaluate([*arguments, "77"])
    with pytest.raises(ValueError, match="^the data set's classes .2: 1, 2. are not the model's"):
        evaluate(arguments)  # which the data has are looked at as ever


def test_images_that_are_too_small_for_the_network_are_told_by_the_option(convnext_folder, tmp_path):
    """In words of this package, or of torch of a network of others."""
    arguments = ["--dataset", "digits", "--image_size"]
    vanillanet = tmp_path / "vanillanet"
    model = hf_effmodels.create_model("vanillanet-5", hidden_sizes=[8] * 3, strides=[2, 2], num_labels=10)
    model.save_pretrained(vanillanet)
    hf_effmodels.create_image_processor("vanillanet-5").save_pretrained(vanillanet)
    with pytest.raises(ValueError, match="^--image_size: got 15×15; the images are too small: .* from 16×16 pixels"):
        evaluate(["--model", str(vanillanet), *arguments, "15"])
    with pytest.raises(ValueError, match="^--image_size: no model works with 1 .*[Kk]ernel size"):
        evaluate(["--model", str(convnext_folder), *arguments, "1"])


def test_of_a_preset_it_is_said_that_its_weights_are_random(caplog):
    arguments = ["--model", "vanillanet-5", "--dataset", "digits"]
    with pytest.raises(ValueError, match=r"classes \(10: 0, 1, .* are not the model's \(1000: tench, .*; goldfish"):
        evaluate(arguments)
    assert "--model: the weights of vanillanet-5, a preset, are random; " in caplog.text


def test_a_second_run_needs_a_word_before_it_replaces_the_first(digits_run, tmp_path):
    run = [*digits_run, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]
    main(run)
    first = weights(tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run"):
        main(run)
    with pytest.raises(ValueError, match="learning_rate: 0.05 -> 0.1"):
        main([*run, "--learning_rate", "0.1", "--resume_from_checkpoint", "true"])
    main([*run, "--resume_from_checkpoint"])  # it had come to its end: nothing changes
    assert all(torch.equal(first[name], tensor) for name, tensor in weights(tmp_path / "run").items())
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["train_loss"] > 1
    main([*run, "--learning_rate", "0.1", "--overwrite_output_dir", "true"])
    assert not all(torch.equal(first[name], tensor) for name, tensor in weights(tmp_path / "run").items())


def test_a_folded_model_is_refused_for_training(digits_run, tmp_path):
    model = hf_effmodels.create_model("ghostnetv3-1.0x", num_labels=10, image_size=16, **TINY_GHOSTNET)
    model.reparameterize()
    model.save_pretrained(tmp_path / "folded")
    hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_size=16).save_pretrained(tmp_path / "folded")
    with pytest.raises((ValueError, RuntimeError), match="(?i)reparameteri|folded"):
        main([*digits_run, "--model", str(tmp_path / "folded"), "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize(
    "given, message",
    [
        ("{stages: [[]]}", r"--model_config: no model works with .*stages.*IndexError"),
        ("{width_multiplier: 1.0e+300}", "--model_config: no model works with .*width_multiplier"),
        ("{dtype: nope}", "--model_config: no model works with .*nope"),
        ("{id2label: {0: a}}", "--model_config: id2label comes from the data set"),
        ("{num_labels: 3}", "--model_config: num_labels comes from the data set"),
        ("{label2id: {a: 0}}", "--model_config: label2id comes from the data set"),
        ("{reparameterized: true}", "--model: ghostnetv3-0.5x is folded for deployment and cannot be trained"),
        ("{final_size: 100000000000}", "final_size|not enough memory"),
    ],
)
def test_a_configuration_that_no_network_can_have_is_no_traceback(given, message, tmp_path):
    arguments = ["--model", "ghostnetv3-0.5x", "--dataset", "digits", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=message):
        prepare("prepare_training", [*arguments, "--model_config", given])


def test_an_error_without_a_configuration_is_nobodys_input():
    with pytest.raises(IndexError), blaming_model_config({}):
        raise IndexError
    with pytest.raises(OSError, match="not found"), blaming_model_config({"a": 1}):
        raise OSError("not found")


def test_a_prepared_run_knows_its_classes_and_what_to_hold_out_again(convnext_folder, tmp_path):
    """Forty-two pictures of three classes without a split to evaluate on: a tenth of each is held out."""
    file = write_parquet(tmp_path / "a.parquet", [0] * 20 + [1] * 20 + [2] * 2)
    run = ["--model", str(convnext_folder), "--ignore_mismatched_sizes", "true", "--dataset", "parquet"]
    run += ["--data_files", file, "--cache_dir", str(tmp_path / "cache"), "--num_train_epochs", "1"]
    made = prepare("prepare_training", [*run, "--output_dir", str(tmp_path / "run")])
    training, evaluating, macs = made.facts
    assert training.startswith("training on ") and training.endswith(": 37 samples, 3 classes (1 to 18 each)")
    assert evaluating.startswith("evaluating on ") and evaluating.endswith(": 5 samples, 3 classes (1 to 2 each)")
    assert macs.endswith("multiply-adds for an image of 16 x 16")
    (few,) = made.warnings
    assert "1 classes have fewer than 5 training samples (eel)" in few
    assert made.evaluation == {"eval_fraction": 0.1}  # `evaluate` itself would take all of them
    source = made.trainer.eval_dataset.source
    [file_of_example] = made.example(tmp_path)
    assert np.array_equal(np.asarray(Image.open(file_of_example)), np.asarray(source.read(0, 3)))
    assert not np.array_equal(np.asarray(source.read(0, 3)), np.asarray(made.trainer.train_dataset.source.read(0, 3)))
    for held_out in (["--eval_fraction", "0.5"], ["--eval_holdout", "21"]):  # what the run itself was given
        made = prepare("prepare_training", [*run, *held_out, "--output_dir", str(tmp_path / "run")])
        assert made.evaluation == {}
