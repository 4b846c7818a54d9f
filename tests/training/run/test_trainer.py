"""Runs that are interrupted, moved or measured on the way: what they end with, held against values found otherwise."""

import json
import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import BatchSampler
from transformers import Trainer, TrainerCallback

from hf_effmodels.training.run import trainer as of_trainer
from hf_effmodels.training.run.averaging import unique_state
from hf_effmodels.training.run.output_folder import RUN_FILE, WEIGHTS_WITHOUT_EMA, newest_checkpoint, what_is_missing
from hf_effmodels.training.run.recipe_arguments import RecipeArguments

from .conftest import Line, Points, logged

BEST = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
SIX_STEPS = {"per_device_train_batch_size": 4, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2}
SIX_STEPS |= {"eval_strategy": "steps", "eval_steps": 2}


def make(line_trainer, scores=None, model=None, points=None, **arguments):
    """Six steps, evaluated and saved after each second one; `scores` are what the evaluations find."""
    trainer = line_trainer(model or Line(), points or Points(8), **{**SIX_STEPS, **arguments})
    if scores is not None:
        scores, evaluate = iter(scores), trainer.evaluate
        trainer.evaluate = lambda *args, **kwargs: {**evaluate(*args, **kwargs), "eval_score": next(scores)}
    return trainer


def test_weight_decay_spares_vectors_unless_it_is_on_all(line_trainer):
    """Line's weight is a vector."""
    for on, decays in (("weights", [0.0]), ("all", [0.3])):
        optimizer = make(line_trainer, weight_decay=0.3, weight_decay_on=on).create_optimizer()
        assert [group["weight_decay"] for group in optimizer.param_groups if group["params"]] == decays
    optimizer = make(line_trainer, model=Staged(), weight_decay=0.3, weight_decay_on="all").create_optimizer()
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups if group["params"]] == [
        (6, 0.3)
    ]


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stages, self.head = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]), nn.Linear(2, 1)

    def forward(self, x, labels):
        return {"loss": (self.head(self.stages[0](self.stem(x)))[:, 0] - labels).square().mean()}


def test_layers_and_parts_of_a_network_learn_and_decay_as_is_said_however_often_the_optimizer_is_asked_for(
    line_trainer,
):
    settings = {"learning_rate": 0.8, "weight_decay": 0.3, "layer_decay": 0.5, "learning_rate_factors": {"head": 10}}
    trainer = make(line_trainer, model=Staged(), **settings)
    optimizer = trainer.create_optimizer()
    assert trainer.create_optimizer() is optimizer is trainer.optimizer
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    rates = {"stem": 0.2, "stages.0": 0.4, "head": 8.0}
    for name, parameter in trainer.model.named_parameters():
        layer, _, kind = name.rpartition(".")
        assert found[id(parameter)] == (pytest.approx(rates[layer]), 0.3 if kind == "weight" else 0.0), name


@pytest.mark.parametrize("arguments, seed", [({"seed": 3}, 3), ({"seed": 3, "data_seed": 0}, 0)])
def test_the_order_of_the_samples_is_that_of_the_seed_of_the_data(line_trainer, arguments, seed):
    sampler = make(line_trainer, train_sampling_strategy="random", **arguments)._get_train_sampler()
    assert [*sampler] == np.random.default_rng((seed, 0)).permutation(8).tolist()
    assert [*make(line_trainer, **arguments)._get_train_sampler()] == [*range(8)]  # sequential


def test_a_factor_of_no_part_is_told_of_a_trainer_that_only_measures_too(line_trainer):
    for points in (Points(8), None):
        with pytest.raises(ValueError, match="^--learning_rate_factors: 'head' is of no parameter; nearest: w"):
            line_trainer(Line(), points, learning_rate_factors={"head": 2})


def test_batches_of_another_size_are_made_and_counted_from_then_on(line_trainer):
    trainer = make(line_trainer, gradient_accumulation_steps=2)
    loader = trainer.get_train_dataloader()
    assert [len(batch["x"]) for batch in loader] == [4, 4]
    trainer.use_batch_size(3)
    assert [len(batch["x"]) for batch in loader] == [3, 3, 2]
    assert trainer.get_total_train_batch_size(trainer.args) == 6
    assert trainer.samples_of_step() == 6  # of a step of two batches


class Shortcuts(nn.Module):
    """Convolutions as of residual networks' shortcuts, and how the pictures lay that each was given."""

    def __init__(self):
        super().__init__()
        self.narrow, self.wide, self.square = nn.Conv2d(4, 8, 1, 2), nn.Conv2d(8, 8, 1, 2), nn.Conv2d(4, 8, 3, 2, 1)
        self.grouped = nn.Conv2d(8, 8, 1, 2, groups=2)
        self.lay = {}
        for name, part in self.named_children():
            part.register_forward_hook(lambda _, given, __, name=name: self.lay.update({name: given[0].stride()[1]}))

    def forward(self, x, labels):
        pictures = torch.ones(len(x), 8, 6, 6).to(memory_format=torch.channels_last)
        return {"loss": sum(part(pictures[:, : part.in_channels]).mean() for part in self.children())}


def test_a_narrow_shortcut_reads_pictures_channel_by_channel(line_trainer):
    model = Shortcuts()
    model.narrow.to(memory_format=torch.channels_last)
    make(line_trainer, model=model, max_steps=1, eval_strategy="no", load_best_model_at_end=False).train()
    assert model.lay == {"narrow": 36, "wide": 1, "square": 1, "grouped": 36}
    assert model.narrow.weight.stride() == (4, 1, 1, 1)


class Steps(TrainerCallback):
    """Keeps the weights after each step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(model.w.detach().clone())


def averages(start, steps, decay):
    """e <- decay * e + (1 - decay) * w, after each step."""
    average, found = torch.tensor(start, dtype=torch.float64), []
    for w in steps:
        average = decay * average + (1 - decay) * w.double()
        found.append(average.float())
    return found


@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_end_is_the_best_checkpoints_average_and_each_average_has_its_last_step(line_trainer, best):
    steps = Steps()
    trainer = make(line_trainer, [float(at == best) for at in (1, 2, 3)], ema_decay=0.6, **BEST)
    trainer.add_callback(steps)
    start = trainer.model.w.tolist()
    trainer.train()
    expected = averages(start, steps.weights, 0.6)
    for step in (2, 4, 6):
        checkpoint = f"{trainer.args.output_dir}/checkpoint-{step}"
        torch.testing.assert_close(load_file(f"{checkpoint}/model.safetensors")["w"], expected[step - 1])
        assert torch.equal(load_file(f"{checkpoint}/{WEIGHTS_WITHOUT_EMA}")["w"], steps.weights[step - 1])
    torch.testing.assert_close(trainer.model.w.detach(), expected[2 * best - 1])
    assert trainer.state.best_global_step == 2 * best
    distances = [(trainer.model.w - other).abs().max().item() for other in (*expected, *steps.weights)]
    assert sorted(distances)[1] > 1e-3  # it is near one of them alone


def test_a_run_goes_on_with_the_weights_and_the_average_that_it_had(line_trainer, tmp_path):
    """Without an average from then on, with the weights alone; the checkpoint's model is the average."""
    steps = Steps()
    trainer = make(line_trainer, ema_decay=0.6)
    trainer.add_callback(steps)
    start = trainer.model.w.tolist()
    trainer.train()
    for decay, end in ((0.6, averages(start, steps.weights, 0.6)[-1]), (None, steps.weights[-1])):
        again = make(line_trainer, ema_decay=decay, output_dir=str(tmp_path / f"again-{decay}"))
        again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-4")
        torch.testing.assert_close(again.model.w.detach(), end)


def test_without_a_best_one_the_end_is_the_last_average(line_trainer):
    steps = Steps()
    trainer = make(line_trainer, ema_decay=0.6)
    trainer.add_callback(steps)
    start = trainer.model.w.tolist()
    trainer.train()
    torch.testing.assert_close(trainer.model.w.detach(), averages(start, steps.weights, 0.6)[-1])


def test_a_further_training_averages_from_the_weights_that_it_begins_with(line_trainer):
    """Not from the average of the checkpoint that the one before went on from."""
    make(line_trainer, ema_decay=0.6).train()
    steps = Steps()
    trainer = make(line_trainer, ema_decay=0.6)
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    trainer.add_callback(steps)
    start = trainer.model.w.tolist()
    trainer.train()
    torch.testing.assert_close(trainer.model.w.detach(), averages(start, steps.weights, 0.6)[-1])


def half_cosine(share, low, high):
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    "name, arguments, rates",
    [
        (
            "step",
            {"lr_scheduler_kwargs": {"decay_epochs": 2, "decay_rate": 0.5, "warmup_epochs": 1, "warmup_lr": 0.1}},
            # Three epochs of two steps: of the first the warm-up's rate, and from the third on half.
            [0.1, 0.1, 0.8, 0.8, 0.4, 0.4],
        ),
        (
            "inverse_decay",
            {"lr_scheduler_kwargs": {"alpha": 0.5, "beta": 2.0}},
            [0.8 / (1 + 0.5 * step) ** 2 for step in range(6)],
        ),
        (
            "warmup_cosine",
            {"warmup_steps": 2, "min_lr": 0.2},
            [0.0, 0.8, *(half_cosine(step / 4, 0.2, 0.8) for step in range(4))],
        ),
        (
            "cosine_over_warmup",
            {"warmup_steps": 2, "min_lr": 0.2, "lr_scheduler_kwargs": {"warmup_lr": 0.4}},
            [0.4, 0.6, *(half_cosine(step / 6, 0.2, 0.8) for step in range(2, 6))],
        ),
        (
            "cosine_over_warmup",
            {"warmup_steps": 2, "lr_scheduler_kwargs": {"warmup_prefix": True}},
            [0.0, 0.4, *(half_cosine(step / 4, 0.0, 0.8) for step in range(4))],
        ),
    ],
    ids=["step", "inverse decay", "warmed cosine", "cosine over warm-up", "cosine after warm-up"],
)
def test_a_schedule_of_ours_is_made_with_all_that_is_said_of_it(line_trainer, name, arguments, rates):
    trainer = make(
        line_trainer, lr_scheduler_type=name, learning_rate=0.8, eval_strategy="no", save_strategy="no", **arguments
    )
    trainer.train()
    assert logged(trainer, "learning_rate") == pytest.approx(rates, abs=1e-7)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, torch.rand], ids=["python", "numpy", "torch"])
def test_what_is_drawn_in_between_changes_no_random_numbers(draw):
    def number():
        return float(draw(1)) if draw is torch.rand else float(draw())

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = [number(), number()]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert number() == expected[0]
    with of_trainer.same_random_numbers(torch.device("cpu")):
        assert number() == expected[1]
    with pytest.raises(KeyError), of_trainer.same_random_numbers(torch.device("cpu")):
        {}[number()]
    assert number() == expected[1]


def test_networks_say_what_they_are_trained_with_the_outermost_of_all():
    class Says(nn.Module):
        def __init__(self, name, *parts):
            super().__init__()
            self.name, self.parts = name, nn.ModuleList(parts)

        def training_callbacks(self):
            return [self.name]

    network = nn.ModuleList([nn.Linear(1, 1), nn.Sequential(Says("a", Says("inside"))), Says("b")])
    assert of_trainer.training_callbacks(network) == ["a", "b"]
    assert of_trainer.training_callbacks(Says("all", network)) == ["all"]


@pytest.mark.parametrize("idle", [False, True])
def test_a_process_that_repeats_samples_trains_on_no_statistics_of_them(line_trainer, idle):
    trainer = line_trainer(Normed(), Points(4), per_device_train_batch_size=2)
    model, trainer.idle = trainer.model.train(), idle
    with trainer._without_statistics(model, {"x": torch.zeros(2, 2)}):
        assert {module.training for module in model.modules()} == {not idle}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("idle", [False, True])
def test_a_process_that_repeats_samples_adds_nothing_to_the_loss_and_to_the_log(line_trainer, idle):
    """Both errors are -1, the predictions 0.5 and -0.25; all by hand."""
    trainer = line_trainer(Line(), Points(4), per_device_train_batch_size=2)
    trainer.add_loss("predictions", lambda model, inputs, outputs: 2 * outputs["predicted"].sum())
    trainer.named_parts = lambda outputs: {"part": 3 * outputs["loss"]}
    trainer.is_in_train, trainer.current_gradient_accumulation_steps, trainer.idle = True, 1, idle
    batch = {"x": torch.eye(2), "labels": torch.tensor([1.5, 0.75])}
    trainer._added_losses.begin_step([batch], trainer.accelerator)
    loss = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    counts = 0.0 if idle else 1.0
    assert loss.item() == 1.5 * counts and trainer.model.w.grad.tolist() == [(2 - 1) * counts] * 2
    logged = {"task_loss": 1.0, "predictions": 0.5, "part": 3.0}
    assert trainer._added_losses.take(trainer.accelerator) == {name: counts * value for name, value in logged.items()}


class Drops(Line):
    """Draws random numbers of torch, in training and in evaluation."""

    def forward(self, x, labels):
        return super().forward(x * (torch.rand(2) > 0.4), labels)


def test_evaluating_and_saving_leave_the_random_numbers_of_training_alone(line_trainer, tmp_path):
    ends = []
    for number, often in enumerate(({}, {"eval_strategy": "no", "save_strategy": "no"})):
        torch.manual_seed(0)
        trainer = make(line_trainer, model=Drops(), output_dir=str(tmp_path / str(number)), **often)
        trainer.train()
        ends.append(trainer.model.w.detach())
    assert torch.equal(*ends)


class Normed(Line):
    """A batch norm of vectors, and one of maps."""

    def __init__(self):
        super().__init__()
        self.norm, self.maps = nn.BatchNorm1d(2), nn.BatchNorm2d(2)

    def forward(self, x, labels):
        maps = self.maps(x[:, :, None, None] * torch.tensor([1.0, -1.0]))
        return super().forward(self.norm(x) + maps.mean((2, 3)), labels)


def test_a_last_batch_of_one_is_normed_by_what_was_measured_before_and_measured_where_it_varies(line_trainer):
    trainer = make(line_trainer, model=Normed(), points=Points(5), num_train_epochs=1, eval_strategy="no")
    trainer.train()
    points, model = trainer.train_dataset.x, trainer.model
    torch.testing.assert_close(model.norm.running_mean, 0.1 * points[:4].mean(0))
    assert model.norm.num_batches_tracked == 1 and model.maps.num_batches_tracked == 2
    spread = points[:4].square().mean(0) * 8 / 7, points[4].square() * 2
    torch.testing.assert_close(model.maps.running_var, 0.9 * (0.9 + 0.1 * spread[0]) + 0.1 * spread[1])
    assert model.norm.training and not model.norm._forward_pre_hooks
    alone = make(line_trainer, model=Normed(), per_device_train_batch_size=1, overwrite_output_dir=True)
    with pytest.raises(ValueError, match="--per_device_train_batch_size: got 1, with which a batch norm"):
        alone.train()


def test_in_a_batch_of_one_a_batch_norm_that_a_task_puts_in_evaluation_measures_nothing(line_trainer):
    trainer = line_trainer(Normed(), Points(4), per_device_train_batch_size=2)
    model, one = trainer.model.train(), {"x": torch.ones(1, 2), "labels": torch.ones(1)}
    with trainer._without_statistics(model, one):
        model.eval()(**one)
        assert (model.norm.num_batches_tracked, model.maps.num_batches_tracked) == (0, 0)
        model.train()(**one)
        assert (model.norm.num_batches_tracked, model.maps.num_batches_tracked) == (0, 1)
    assert all(module.training and not module._forward_pre_hooks | module._forward_hooks for module in model.modules())


def test_what_training_drops_of_an_incomplete_batch_is_measured_all_the_same(line_trainer):
    trainer = make(line_trainer, dataloader_drop_last=True, points=Points(7), num_train_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 1
    for few in (Points(3), Points(7)):
        loss = (few.x @ trainer.model.w - few.y).square().mean().item()
        assert trainer.evaluate(few)["eval_loss"] == pytest.approx(loss, rel=1e-5)
        assert len(trainer.predict(few).predictions) == len(few)
    assert trainer.args.dataloader_drop_last
    with pytest.raises(ValueError, match="size: got 4, but there are 3 training samples and --dataloader_drop_last"):
        make(line_trainer, dataloader_drop_last=True, points=Points(3))


# The folder


@pytest.mark.parametrize("step", [4, 6])
def test_the_best_checkpoint_is_found_in_a_folder_that_has_moved(line_trainer, tmp_path, step):
    whole = make(line_trainer, [0.0, 1.0, 0.5], output_dir=str(tmp_path / "first"), **BEST)
    whole.train()
    best = load_file(tmp_path / "first" / "checkpoint-4" / "model.safetensors")["w"]
    assert torch.equal(whole.model.w.detach(), best)
    (tmp_path / "first").rename(tmp_path / "moved")
    on = make(line_trainer, [0.5], output_dir=str(tmp_path / "moved"), **BEST)
    on.train(resume_from_checkpoint=str(tmp_path / "moved" / f"checkpoint-{step}"))
    assert on.state.best_model_checkpoint == str(tmp_path / "moved" / "checkpoint-4")
    assert torch.equal(on.model.w.detach(), best)


def test_a_run_that_goes_on_from_its_last_step_takes_no_other(line_trainer, tmp_path):
    """Also where that is within an epoch, of which samples are left."""
    whole = make(line_trainer, max_steps=5, save_steps=5, output_dir=str(tmp_path / "run"))
    whole.train()
    drawn = torch.rand(3)
    assert whole.state.max_steps == whole.state.global_step == 5 and whole.state.epoch % 1
    on = make(line_trainer, max_steps=5, save_steps=5, output_dir=str(tmp_path / "run"))
    on.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    assert (on.state.global_step, on.state.epoch) == (5, whole.state.epoch)
    assert torch.equal(on.model.w, whole.model.w) and torch.equal(torch.rand(3), drawn)


def test_results_are_added_to_those_that_are_there_unless_they_are_broken(line_trainer, tmp_path):
    trainer, file = make(line_trainer), tmp_path / "run" / "all_results.json"
    trainer.save_metrics("train", {"train_loss": 2.0, "a": 1})
    trainer.save_metrics("eval", {"eval_loss": 1.0, "a": 3})
    trainer.save_metrics("other", {"x": 1}, combined=False)
    assert json.loads(file.read_text()) == {"a": 3, "eval_loss": 1.0, "train_loss": 2.0}
    assert json.loads((tmp_path / "run" / "train_results.json").read_text()) == {"a": 1, "train_loss": 2.0}
    assert json.loads((tmp_path / "run" / "other_results.json").read_text()) == {"x": 1}
    for left in ("", "[1]", '{"a": '):  # of a run that was killed
        file.write_text(left)
        trainer.save_metrics("eval", {"eval_loss": 1.0})
        assert json.loads(file.read_text()) == {"eval_loss": 1.0}
    trainer.is_world_process_zero = lambda: False
    trainer.save_metrics("eval", {"eval_loss": 7.0})
    assert json.loads(file.read_text()) == {"eval_loss": 1.0}


def test_another_run_in_the_old_place_is_not_taken_for_the_best_checkpoint(line_trainer, tmp_path):
    make(line_trainer, [1.0, 0.0, 0.0], output_dir=str(tmp_path / "run"), **BEST).train()
    best = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")["w"]
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    shutil.rmtree(tmp_path / "run")
    make(line_trainer, [1.0, 0.0, 0.0], learning_rate=0.01, output_dir=str(tmp_path / "run"), **BEST).train()
    on = make(line_trainer, [0.5], output_dir=str(tmp_path / "copy"), **BEST)
    on.train(resume_from_checkpoint=str(tmp_path / "copy" / "checkpoint-4"))
    assert torch.equal(on.model.w.detach(), best)


def test_a_best_checkpoint_that_is_gone_is_said_and_the_best_from_there_on_counts(line_trainer, tmp_path, caplog):
    make(line_trainer, [1.0, 0.0, 0.0], **BEST).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    on = make(line_trainer, [0.5], **BEST)
    on.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert "the best checkpoint so far, of step 2 with score 1.0, is gone" in caplog.text
    assert on.state.best_global_step == 6


def test_a_checkpoint_of_another_number_of_processes_is_gone_on_from_with_a_warning(
    line_trainer, tmp_path, caplog, monkeypatch
):
    make(line_trainer).train()
    checkpoint = tmp_path / "run" / "checkpoint-4"
    make(line_trainer).train(resume_from_checkpoint=str(checkpoint))
    assert "processes" not in caplog.text
    shutil.move(checkpoint / "rng_state.pth", tmp_path / "rng_state.pth")  # of how many is not known then
    make(line_trainer).train(resume_from_checkpoint=str(checkpoint))
    assert "processes" not in caplog.text
    for name in ("rng_state.pth", "rng_state_1.pth"):
        shutil.copy(tmp_path / "rng_state.pth", checkpoint / name)
    make(line_trainer).train(resume_from_checkpoint=str(checkpoint))
    assert f"{checkpoint} was written by 2 processes, now there are 1" in caplog.text
    trainer = make(line_trainer)
    monkeypatch.setattr(RecipeArguments, "world_size", 3)
    trainer._load_from_checkpoint(str(checkpoint))
    assert f"{checkpoint} was written by 2 processes, now there are 3" in caplog.text


@pytest.mark.parametrize(
    "lost, problem",
    [
        ("model.safetensors", "no weights"),
        (WEIGHTS_WITHOUT_EMA, f"no {WEIGHTS_WITHOUT_EMA}"),
        ("optimizer.pt", "no optimizer.pt"),
        ("scheduler.pt", "no scheduler.pt"),
        ("trainer_state.json", "no readable trainer_state.json"),
    ],
)
def test_a_checkpoint_that_lost_something_is_passed_over_for_an_older_one(line_trainer, tmp_path, lost, problem):
    folder = tmp_path / "run"
    make(line_trainer, ema_decay=0.6).train()
    (folder / RUN_FILE).write_text("ema_decay: 0.6\n")
    assert newest_checkpoint(folder).name == "checkpoint-6"
    (folder / "checkpoint-6" / lost).unlink()
    assert what_is_missing(folder / "checkpoint-6") == problem
    assert newest_checkpoint(folder).name == "checkpoint-4"


def test_a_checkpoint_in_shards_that_lost_one_is_passed_over(line_trainer, tmp_path):
    make(line_trainer).train()
    newest = tmp_path / "run" / "checkpoint-6"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (newest / "model.safetensors").rename(newest / shards[0])
    shutil.copy(newest / shards[0], newest / shards[1])
    index = newest / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    assert what_is_missing(newest) is None
    (newest / shards[1]).unlink()
    assert what_is_missing(newest) == f"no {shards[1]}"
    index.write_text("{")
    assert what_is_missing(newest) == f"{index.name} is no index of weights"
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-4"


def test_a_checkpoint_with_the_state_of_another_step_is_passed_over(line_trainer, tmp_path):
    make(line_trainer).train()
    state = tmp_path / "run" / "checkpoint-6" / "trainer_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "global_step": 5}))
    assert what_is_missing(state.parent) == "trainer_state.json is of step 5"
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-4"


def test_the_token_is_in_no_file(line_trainer, tmp_path):
    token = "hf_" + "secretsecret"
    trainer = make(line_trainer, hub_token=token, ema_decay=0.5)
    trainer.train()
    trainer.save_model()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert not [path for path in files if path.name == "training_args.bin"]
    assert token not in repr(vars(trainer.args))  # nor was it in one for a moment


@pytest.mark.parametrize("schedule", ["warmup_cosine", "cosine_over_warmup"])
def test_a_warm_up_as_long_as_the_run_is_named_by_its_argument(line_trainer, schedule):
    trainer = line_trainer(Line(), Points(4), lr_scheduler_type=schedule, warmup_steps=0.05, max_steps=1)
    with pytest.raises(ValueError, match="--warmup_steps: got 0.05, which makes 1 of 1 training steps"):
        trainer.train()


def test_publishing_is_asked_of_the_arguments_and_done_by_one_process(line_trainer, monkeypatch):
    trainer, asked = line_trainer(Line(), Points(4), hub_revision="dev", hub_private_repo=True), []
    monkeypatch.setattr(of_trainer, "find_repository", lambda *given: asked.append(given) or "me/net")
    monkeypatch.setattr(of_trainer, "publish_run", lambda *given, **more: (*given, more))
    with pytest.raises(TypeError, match="^blocking: it goes into the training arguments, such as hub_revision.$"):
        trainer.push_to_hub("Done", tags=["x"], blocking=True)
    folder = Path(trainer.args.output_dir)
    settings = {"exported": False, "token": None, "private": True, "revision": "dev", "message": "End of training"}
    assert trainer.push_to_hub() == (folder, "me/net", settings) and asked == [(None, folder, None)]
    assert trainer.push_to_hub("Done")[2]["message"] == "Done" and len(asked) == 1, "it is known by now"
    trainer.init_hf_repo("hf_other")
    assert asked[1:] == [(None, folder, "hf_other")]
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    assert trainer.push_to_hub() is None
    trainer.init_hf_repo("hf_token")
    assert len(asked) == 2


def test_whether_a_model_is_published_with_its_code_is_asked_of_what_is_saved(line_trainer, monkeypatch):
    """Of a distillation the student, not what it learns with."""
    trainer, student = line_trainer(Line(), Points(4)), Line()
    monkeypatch.setattr(type(trainer), "network", property(lambda self: student))
    monkeypatch.setattr(of_trainer, "find_repository", lambda *given: "me/net")
    monkeypatch.setattr(of_trainer, "is_own", lambda network: network is student)
    monkeypatch.setattr(of_trainer, "publish_run", lambda *places, exported, **more: exported)
    assert trainer.push_to_hub() is True


@pytest.mark.parametrize("process, own", [(0, [[0, 1], [4]]), (1, [[2, 3], [4]])])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"split_batches": True}])
def test_what_is_left_for_several_processes_is_shared_out_unless_accelerate_is_told_otherwise(
    line_trainer, monkeypatch, process, own, options
):
    trainer = line_trainer(Line(), Points(5), per_device_train_batch_size=2)
    batches = BatchSampler(trainer._get_train_sampler(), 2, drop_last=options.get("drop_last", False))
    shards = BatchSamplerShard(batches, 2, process, split_batches=options.get("split_batches", False))
    theirs = [*shards]
    monkeypatch.setattr(Trainer, "get_train_dataloader", lambda self: SimpleNamespace(batch_sampler=shards))
    found, expected = trainer.get_train_dataloader().batch_sampler, theirs if options else own
    assert [*found] == expected and len(found) == len(expected)


@pytest.mark.parametrize("given, meant", [(" hf_makers\n", "hf_makers"), ("  ", None), (None, None)])
def test_a_token_is_used_without_the_white_space_of_the_file_that_it_comes_from(
    line_trainer, monkeypatch, given, meant
):
    trainer, seen = line_trainer(Line(), Points(4)), []
    args = trainer.args
    args.hub_token = given
    trainer = of_trainer.RecipeTrainer(model=Line(), args=args, train_dataset=Points(4))
    monkeypatch.setattr(of_trainer, "find_repository", lambda name, folder, token: seen.append(token) or "me/net")
    monkeypatch.setattr(of_trainer, "publish_run", lambda *places, token, **more: seen.append(token))
    trainer.push_to_hub()
    assert seen == [meant, meant]


def test_weights_that_the_trainer_loads_itself_are_all_of_them(line_trainer, monkeypatch, tmp_path):
    trainer = line_trainer(Line(), Points(4))
    trainer._issue_warnings_after_load(SimpleNamespace(missing_keys=[], unexpected_keys=[]))
    wrong = SimpleNamespace(missing_keys=["a", "b", "c"], unexpected_keys=["d", "e", "f"])
    with pytest.raises(ValueError, match=r"checkpoint's weights lack or add \['a', 'b', 'c', 'd', 'e'\].$"):
        trainer._issue_warnings_after_load(wrong)
    assert trainer.loads_weights_itself
    loaded = []
    monkeypatch.setattr(Trainer, "_load_from_checkpoint", lambda self, *given: loaded.append(given))
    monkeypatch.setattr(Trainer, "_load_best_model", lambda self: loaded.append("best"))
    trainer.is_fsdp_enabled = True
    assert not trainer.loads_weights_itself
    trainer._load_from_checkpoint(str(tmp_path), "model")
    trainer._load_best_model()
    assert loaded == [(str(tmp_path), "model"), "best"]


def test_an_average_needs_whole_weights_and_processes_are_averaged(line_trainer, monkeypatch):
    make_accelerator = Trainer.create_accelerator_and_postprocess
    for name in ("is_fsdp_enabled", "is_deepspeed_enabled"):

        def sharded(self, name=name):
            make_accelerator(self)
            setattr(self, name, True)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "create_accelerator_and_postprocess", sharded)
            with pytest.raises(ValueError, match="^--ema_decay needs whole weights in each process: it does not go "):
                line_trainer(Line(), Points(4), ema_decay=0.5)
    monkeypatch.setattr(RecipeArguments, "world_size", property(lambda self: 2))
    norms = []
    monkeypatch.setattr(of_trainer, "synchronise_batch_norms", norms.append)
    model = Line()
    model.norm = nn.BatchNorm1d(2)
    trainer = line_trainer(model, Points(4), sync_batch_norm=True)
    line_trainer(Line(), Points(4), sync_batch_norm=False)
    assert norms == [model]
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda tensor, how: tensor + (3.0 if how == "mean" else 0.0))
    weights = [parameter.clone() for parameter in model.parameters()]
    trainer._set_evaluated_weights(unique_state(model))
    assert model.norm.running_mean.tolist() == [3.0, 3.0] and model.norm.running_var.tolist() == [4.0, 4.0]
    assert model.norm.num_batches_tracked == 0
    assert all(torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True))


def test_what_is_wrong_with_a_batch_of_one_is_told_and_nothing_else_is_hidden(line_trainer, monkeypatch):
    trainer = line_trainer(Line(), Points(4), per_device_train_batch_size=1)

    def failing(said):
        def step(self, *given):
            raise ValueError(said)

        monkeypatch.setattr(Trainer, "training_step", step)

    failing("Expected more than 1 value per channel when training, got input size [1, 3, 1, 1]")
    with pytest.raises(
        ValueError, match="^--per_device_train_batch_size: got 1, with which a batch norm of this model"
    ):
        trainer.training_step(trainer.model, {})
    failing("the labels are wrong")
    with pytest.raises(ValueError, match="^the labels are wrong$"):
        trainer.training_step(trainer.model, {})


@pytest.mark.parametrize(("logging_steps", "steps", "each"), [(50, 30, 3), (50, 5, 1), (50, 50, 50), (4, 30, 4)])
def test_a_run_shorter_than_the_steps_between_two_losses_has_a_curve_of_ten(line_trainer, logging_steps, steps, each):
    trainer = line_trainer(Line(), Points(4), logging_steps=logging_steps, max_steps=steps)
    trainer.state.max_steps, trainer.state.logging_steps = steps, logging_steps
    (hooks,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, of_trainer._Hooks)]
    hooks.on_train_begin(trainer.args, trainer.state, trainer.control)
    assert trainer.state.logging_steps == each and trainer.ema is None


@pytest.mark.parametrize(
    "beside, recorded, counts",
    [
        ("whole", "elsewhere", "beside"),  # the folder has moved: what lies beside is meant
        ("whole", None, "beside"),
        ("broken", "elsewhere", None),  # of that step, but no longer to be read
        ("broken", None, None),
        (None, "elsewhere", "elsewhere"),  # this checkpoint was moved alone
        (None, "gone", None),
        (None, None, None),
    ],
)
def test_the_best_checkpoint_so_far_is_the_one_beside_or_the_one_that_was_written_down(
    tmp_path, monkeypatch, caplog, beside, recorded, counts
):
    monkeypatch.setattr(of_trainer, "what_is_missing", lambda folder: None if beside == "whole" else "weights")
    run = tmp_path / "run"
    (run / "checkpoint-6").mkdir(parents=True)
    if beside:
        (run / "checkpoint-4").mkdir()
    (tmp_path / "elsewhere").mkdir()
    state = SimpleNamespace(
        best_global_step=4, best_metric=0.5, best_model_checkpoint=recorded and str(tmp_path / recorded)
    )
    of = SimpleNamespace(
        state=state,
        _resumed_from=run / "checkpoint-6",
        args=SimpleNamespace(metric_for_best_model="accuracy"),
    )
    of_trainer.RecipeTrainer._find_best_checkpoint(of)
    places = {"beside": run / "checkpoint-4", "elsewhere": tmp_path / "elsewhere"}
    assert state.best_model_checkpoint == (counts and str(places[counts]))
    said = "of step 4 with accuracy 0.5, is gone: the best one from here on counts"
    assert (said in caplog.text) is (counts is None)
    assert (state.best_global_step, state.best_metric) == ((4, 0.5) if counts else (None, None))


def test_a_run_that_begins_has_no_best_checkpoint_yet(tmp_path):
    for resumed, step in ((None, 4), (tmp_path / "checkpoint-6", None)):
        state = SimpleNamespace(best_global_step=step, best_metric=0.5, best_model_checkpoint="as it was")
        of_trainer.RecipeTrainer._find_best_checkpoint(SimpleNamespace(state=state, _resumed_from=resumed, args=None))
        assert state.best_model_checkpoint == "as it was"
