"""What a report says of a run that is over, of histories and settings that are written here."""

import dataclasses
import importlib
import logging
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_effmodels.hub import stock_card
from hf_effmodels.training.run import reports
from hf_effmodels.training.run.recipe_arguments import defaults_of, resolved
from hf_effmodels.training.run.reports import (
    card_results,
    has_matplotlib,
    plot_curves,
    training_summary,
    what_was_saved,
)
from hf_effmodels.training.task import load_task
from hf_effmodels.training.tasks.source_free_adaptation.arguments import AdaptationArguments


def test_a_summary_has_the_settings_that_were_in_use():
    config = {"learning_rate": 0.1, "mixup": 0.0, "warmup_steps": 0, "optim": "lamb", "max_steps": -1, "crop": []}
    config |= {"settings": {}, "ema_decay": None, "bf16": False, "fp16": True, "task": "image-classification"}
    names = [*config.keys() - {"task"}, "nowhere"]
    assert training_summary(config, names, 64) == {
        "total_train_batch_size": 64, "learning_rate": 0.1, "optim": "lamb", "fp16": True
    }  # fmt: skip
    assert training_summary(config, ["optim"], 8) == {"total_train_batch_size": 8, "optim": "lamb", "fp16": True}
    assert list(training_summary(config, ["optim", "learning_rate"], 8))[1:3] == ["optim", "learning_rate"]
    of_adam = {"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-3}
    for optim, stated in (("lamb", of_adam), ("sgd", {})):
        summary = training_summary({**config, **of_adam, "optim": optim}, ["adam_beta1"], 8)
        assert {name: summary[name] for name in of_adam if name in summary} == stated


@pytest.mark.parametrize(
    "task, options",
    [
        ("object-detection", {"rotate": 5.0, "class_distillation": 2.0, "detection_schedule": True}),
        (
            "image-classification",
            {"lighting": 0.1, "mixup": 0.2, "mix_off_epochs": 3, "label_map_weight": 0.5, "crop_ratio": [0.5, 2.0]},
        ),
        ("semantic-segmentation", {"reduce_labels": True, "max_class_share": 0.5}),
        ("causal-lm", {"block_size": 64, "bitnet": True}),
        ("super-resolution", {"patch_size": 32, "legacy_256": True}),
        ("contrastive-language-image", {"token_group": 16, "max_length": 7}),
        ("masked-image-modeling", {"crop_ratio": [1.0, 1.5], "progressive_epochs": [3, 4]}),
        ("visual-sequence-modeling", {"tokenizer_steps": 3, "packing": "packed"}),
        ("mask-generation", {"hard_mask_weighting": False, "train_pictures": 5}),
        ("distillation", {"teacher_dtype": "bfloat16", "labels_weight": 0.5}),
    ],
)
def test_a_card_states_the_numbers_and_choices_of_its_task_that_are_not_the_default(task, options):
    """Whether or not a list of names has them; no path, nothing of where it ran or of what is measured."""
    types = load_task(task).TRAINING_ARGUMENTS
    options = {**options, "min_lr": 1e-5, "adam_epsilon": 1e-6}
    options |= {"weight_decay_on": "all"} if task in ("causal-lm", "object-detection") else {"layer_decay": 0.7}
    config = {"task": task, **defaults_of(*types), **options}
    places = {"dataset": "/home/me/photos", "model": "/home/me/model", "cache_dir": "/home/me", "output_dir": "/tmp/a"}
    places |= {"label_maps": "/home/me/maps", "teacher": "/home/me/teacher"}
    watched = {
        "logging_steps": 3,
        "save_steps": 7,
        "eval_pictures": 9,
        "max_eval_samples": 5,
        "trust_remote_code": True,
    }
    assert training_summary({**config, **places, **watched}, ["max_eval_samples"], 8) == {
        "total_train_batch_size": 8, "max_eval_samples": 5, **options
    }  # fmt: skip


@pytest.mark.parametrize(
    "task, reports_of, off",
    [
        ("mask-generation", "mask_generation.reports", {"hard_mask_weighting": False, "iou_weight": 0.0}),
        ("object-detection", "object_detection.reports", {"momentum": 0.0, "horizontal_flip": 0.0}),
        ("image-classification", "image_classification.reports", {"horizontal_flip": False, "max_grad_norm": 0.0}),
        ("visual-sequence-modeling", "visual_sequence_modeling.reports", {"gt_weight": 0.0}),
    ],
)
def test_a_card_states_what_was_switched_off_by_the_names_that_its_task_has(task, reports_of, off):
    names = importlib.import_module(f"hf_effmodels.training.tasks.{reports_of}").HYPER_PARAMETERS
    defaults = defaults_of(*load_task(task).TRAINING_ARGUMENTS)
    assert all(defaults[name] for name in off), "by default they are on"
    defaults |= {"task": task, "teacher": "org/large", "detection_schedule": True}  # some act with these alone
    by_default = training_summary(defaults, names, 8)
    assert training_summary({**defaults, **off}, names, 8) == {**by_default, **off}


@pytest.mark.parametrize(
    "settings, stated, left_out",
    [
        ({"train_crop": "random_padded"}, {"crop_padding": 4}, ("crop_scale", "crop_ratio")),
        ({"train_crop": "random_padded", "crop_ratio": [0.5, 2.0]}, {"crop_padding": 4}, ("crop_scale", "crop_ratio")),
        ({"train_crop": "random_resized", "crop_padding": 7}, {"crop_scale": [0.08, 1.0]}, ("crop_padding",)),
        ({"train_crop": "none"}, {}, ("crop_scale", "crop_padding")),
        ({"max_steps": 30}, {"max_steps": 30}, ("num_train_epochs",)),
        ({"max_steps": -1}, {"num_train_epochs": 3.0}, ("max_steps",)),
        ({"repeated_augmentation": 1}, {}, ("repeated_augmentation",)),
        ({"repeated_augmentation": 3}, {"repeated_augmentation": 3}, ()),
    ],
)
def test_a_card_states_what_acts_beside_the_other_settings(settings, stated, left_out):
    task = "image-classification"
    names = importlib.import_module("hf_effmodels.training.tasks.image_classification.reports").HYPER_PARAMETERS
    defaults = defaults_of(*load_task(task).TRAINING_ARGUMENTS)
    summary = training_summary({"task": task, **defaults, **settings}, names, 8)
    assert {name: summary.get(name) for name in stated} == stated
    assert not summary.keys() & {*left_out}


def _after(steps, epoch, length=40, **state):
    state = {"global_step": steps, "epoch": epoch, "best_model_checkpoint": None, "log_history": [], **state}
    args = types.SimpleNamespace(load_best_model_at_end=True, metric_for_best_model="eval_accuracy")
    data = iter(()) if length is None else range(length)
    return types.SimpleNamespace(state=types.SimpleNamespace(**state), args=args, train_dataset=data)


def test_a_card_says_how_far_a_run_came_and_of_which_step_its_weights_are():
    assert what_was_saved(_after(30, 0.39123)) == {"trained": "30 steps, 0.39 epochs"}
    assert what_was_saved(_after(900, 300.0)) == {"trained": "900 steps, 300 epochs"}
    assert what_was_saved(_after(30, 1.0, length=None)) == {"trained": "30 steps"}, "a stream has no epochs"
    history = [{"step": 10, "epoch": 2.5, "eval_accuracy": 0.9}, {"step": 20, "epoch": 5.0, "eval_accuracy": 0.8}]
    best = _after(20, 5.0, best_model_checkpoint="a/checkpoint-10", best_global_step=10, log_history=history)
    told = "of step 10 (epoch 2.5), the best accuracy on the split that is reported"
    assert what_was_saved(best) == {"trained": "20 steps, 5 epochs", "weights": told}
    best.args.load_best_model_at_end = False
    assert what_was_saved(best) == {"trained": "20 steps, 5 epochs"}, "the last ones, though another was better"


def test_small_numbers_are_stated_as_they_are_recorded():
    """As texts, since YAML takes 1e-06 for one; a text of another kind is none."""
    recorded = resolved(AdaptationArguments(cluster_tolerance=1e-6, std_factor=2.5e-7))
    summary = training_summary({"task": "source-free-adaptation", **recorded}, [], 8)
    assert {name: float(value) for name, value in summary.items()} == {
        "total_train_batch_size": 8, "cluster_tolerance": 1e-6, "std_factor": 2.5e-7
    }  # fmt: skip


@pytest.mark.parametrize(
    "task, reports_of",
    [
        ("distillation", "image_classification.reports"),
        ("language-distillation", "causal_lm.reports"),
        ("mask-generation", "mask_generation.reports"),
        ("object-detection", "object_detection.reports"),
        ("contrastive-language-image", "contrastive_language_image.reports"),
        ("visual-sequence-modeling", "visual_sequence_modeling.reports"),
    ],
)
def test_a_card_states_who_taught_and_under_which_licences(task, reports_of):
    names = importlib.import_module(f"hf_effmodels.training.tasks.{reports_of}").HYPER_PARAMETERS
    has = {field.name for kind in load_task(task).TRAINING_ARGUMENTS for field in dataclasses.fields(kind)}
    taught = {"teacher": "org/large", "teacher_license": "mit", "dataset_license": "cc-by-4.0", "divergence": "jsd"}
    expected = {name: value for name, value in taught.items() if name in has}
    assert "teacher" in expected
    summary = training_summary({"task": task, **expected}, names, 8)
    assert {name: summary[name] for name in expected} == expected


def test_samples_are_told_where_there_is_a_number_of_them():
    trainer = types.SimpleNamespace(train_dataset=range(7), eval_dataset=None)
    assert reports._samples(trainer, "test") == {"training": 7}
    trainer = types.SimpleNamespace(train_dataset=iter("ab"), eval_dataset=range(3))
    assert reports._samples(trainer, "test") == {"test": 3}
    assert reports._samples(trainer, "test", "blocks of 16 tokens") == {"test": "3 blocks of 16 tokens"}


def test_results_of_a_card_say_where_they_were_measured():
    trainer = types.SimpleNamespace(args=types.SimpleNamespace(device=types.SimpleNamespace(type="cpu")))
    (first, second) = card_results(trainer, {"top1": 50.0, "top5": 90.0}, "test")
    assert (first["metric"], first["value"], first["split"], second["metric"]) == ("top1", 50.0, "test", "top5")
    assert first["source"].startswith("hf-effmodels train, ") and first["source"].endswith(", cpu")
    assert "dataset" not in first
    assert card_results(trainer, {"top1": 1}, "val", "photos")[0]["dataset"] == "photos"


def test_without_matplotlib_it_is_said_that_no_figures_are_drawn(monkeypatch, caplog):
    assert has_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level(logging.INFO, "hf_effmodels"):
        assert not has_matplotlib()
    assert "matplotlib is not installed: no figures are drawn" in caplog.text


def test_curves_are_of_the_entries_that_have_them(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append(figure))
    history = [{"epoch": n / 10, "step": n, "loss": 100 - n} for n in range(60)]
    history += [{"epoch": 1.0, "step": 10, "eval_loss": 3.0}, {"epoch": 2.0, "eval_loss": 2.0}, {"loss": 1.0}]
    panels = {"loss": {"loss": "training", "eval_loss": "evaluation"}, "top-1": {"eval_top1": "top-1"}}
    plot_curves(history, tmp_path / "a.png", panels)
    first, second = drawn[0].axes
    training, evaluation = first.lines
    assert training.get_xydata().tolist() == [[n / 10, 100 - n] for n in range(60)]
    assert evaluation.get_xydata().tolist() == [[1.0, 3.0], [2.0, 2.0]]
    assert (training.get_marker(), evaluation.get_marker()) == ("None", ".")
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["training", "evaluation"]
    assert (first.get_xlabel(), first.get_ylabel(), second.get_ylabel()) == ("epoch", "loss", "top-1")
    assert not second.lines and second.get_legend() is None
    assert drawn[0].get_size_inches().tolist() == [10.0, 4.0]
    plot_curves(history, tmp_path / "a.png", panels, x="step")
    assert drawn[1].axes[0].lines[1].get_xydata().tolist() == [[10, 3.0]] and drawn[1].axes[0].get_xlabel() == "step"


@pytest.mark.parametrize("steps, runtime, written", [(3, 5.0, True), (0, 5.0, False), (3, 0.0, False)])
@pytest.mark.parametrize("measured", [{"eval_loss": 2.0}, {}])
def test_a_run_that_had_nothing_left_to_do_does_not_write_over_its_numbers(
    steps, runtime, written, measured, monkeypatch, tmp_path
):
    saved, told, models = [], [], []
    monkeypatch.setattr(reports, "save_model", lambda trainer, output: models.append(output))
    trainer = types.SimpleNamespace(
        state=types.SimpleNamespace(global_step=4 + steps),
        _initial_global_step=4,
        log_metrics=lambda split, metrics: told.append((split, metrics)),
        save_metrics=lambda split, metrics: saved.append((split, metrics)),
        save_state=lambda: saved.append("state"),
        args=types.SimpleNamespace(output_dir=str(tmp_path), ema_decay=None),
    )
    trained = {"train_runtime": runtime, "train_loss": 1.0}
    returned = {**trained, **measured} if steps else measured  # a loss of 0 over no steps is none
    assert reports.save_results(trainer, trained, measured) == returned
    expected = [("train", trained)] * written + [("eval", measured)] * bool(measured)
    assert told == expected and saved == [*expected, "state"] and models == [tmp_path]


@pytest.mark.parametrize(
    "named, dataset, expected",
    [(None, "org/data", "org/data"), ("org/other", "mine", "org/other"), (None, None, None)],
)
def test_a_card_says_what_was_trained_on_what_and_begun_with(named, dataset, expected, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(stock_card, "stock_card", lambda *given, **facts: written.append((given, facts)) or "a card")
    (tmp_path / "training_curve.png").touch()
    trainer = types.SimpleNamespace(
        network=types.SimpleNamespace(config=types.SimpleNamespace(model_type="vit")),
        processing_class="a processor",
        args=types.SimpleNamespace(
            output_dir=str(tmp_path),
            license="mit",
            dataset_name=named,
            device=types.SimpleNamespace(type="cpu"),
            load_best_model_at_end=False,
        ),
        state=types.SimpleNamespace(global_step=14, epoch=2.0),
        train_dataset=range(7),
        eval_dataset=range(3),
    )
    where = {"split": "val", "dataset": dataset, "model": "org/net", "pipeline_tag": "image-classification"}
    reports.write_card(trainer, {"top1": 0.5}, training={"epochs": 2}, measured_on="org/test", **where)
    ((given, facts),) = written
    assert (tmp_path / "README.md").read_text() == "a card"
    assert given == (trainer.network, "image-classification")
    assert (facts["processor"], facts["figures"]) == ("a processor", ("training_curve.png",))
    assert not facts["needs_package"] and facts["multiply_adds"] is None
    assert (facts["license"], facts["dataset"], facts["base_model"]) == ("mit", expected, "org/net")
    assert facts["samples"] == (None if dataset is None else {"training": 7, "val": 3})
    assert facts["training"] == {"trained": "14 steps, 2 epochs", "epochs": 2}
    (result,) = facts["results"]
    assert (result["metric"], result["value"], result["split"], result["dataset"]) == ("top1", 0.5, "val", "org/test")


@pytest.mark.parametrize("anew, base", [(True, None), (False, "org/net")])
def test_weights_that_were_drawn_anew_have_no_base_model(anew, base, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(stock_card, "stock_card", lambda *given, **facts: written.append(facts) or "a card")
    args = {"output_dir": str(tmp_path), "license": None, "dataset_name": None, "load_best_model_at_end": False}
    trainer = types.SimpleNamespace(
        network=nn.Conv2d(3, 4, 1),
        processing_class=None,
        args=types.SimpleNamespace(random_weights=anew, device=types.SimpleNamespace(type="cpu"), **args),
        train_dataset=range(7),
        eval_dataset=range(3),
        state=types.SimpleNamespace(global_step=14, epoch=2.0),
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
    )
    trainer.network.config = types.SimpleNamespace(model_type="vit")
    where = {"split": "val", "dataset": None, "model": "org/net", "pipeline_tag": "x", "training": {}}
    reports.write_card(trainer, {}, sample=torch.ones(3, 1000, 500), **where)
    assert written[-1]["base_model"] == base
    assert written[-1]["multiply_adds"] == "6.0 M for an image of 1000 x 500", "3 x 4 at each place"
    trainer.is_fsdp_enabled = True
    reports.write_card(trainer, {}, sample=torch.ones(3, 1000, 500), **where)
    assert written[-1]["multiply_adds"] is None, "of a part of the weights nothing is counted"


@pytest.mark.parametrize("saves", [True, False])
def test_a_model_is_written_by_who_saves_and_by_nobody_else(saves, tmp_path):
    output = tmp_path / "out"
    if saves:
        output.mkdir()

    def save(folder, _internal_call):
        for name in ("model.safetensors", "training_args.bin") if saves else ():
            (Path(folder) / name).touch()

    trainer = types.SimpleNamespace(args=types.SimpleNamespace(should_save=saves), save_model=save)
    reports.save_model(trainer, output)
    found = [path.name for path in output.iterdir()] if output.exists() else None
    assert found == (["model.safetensors"] if saves else None)
