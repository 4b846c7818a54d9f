"""What is VanillaNet's own: the annealed activation, its training, folding, checkpoints."""

import copy
import json
import re
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import TrainerCallback

import hf_effmodels
from hf_effmodels import VanillaNetConfig, VanillaNetForImageClassification
from hf_effmodels.hub.convert import convert_state_dict, read_checkpoint
from hf_effmodels.modeling.vanillanet.deep_training import DeepTrainingCallback
from hf_effmodels.modeling.vanillanet.modeling_vanillanet import _smallest_side
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.optim.layer_decay import layer_decay_groups
from hf_effmodels.training.optim.schedules import warmup_cosine_schedule
from hf_effmodels.training.run.recipe_arguments import RecipeArguments
from hf_effmodels.training.run.trainer import RecipeTrainer, training_callbacks

from . import by_hand

TINY = {"hidden_sizes": [8, 12, 16], "strides": [2, 1], "act_num": 1, "num_labels": 4, "initializer_range": 0.2}


def build(**overrides):
    torch.manual_seed(1)
    model = VanillaNetForImageClassification(VanillaNetConfig(**{**TINY, **overrides})).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_var", "norm1.weight", "norm2.weight", "norm.weight")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.2)
    return model


def images(batch=2, side=32):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(3))


# The annealed activation


@torch.no_grad()
def test_the_slope_blends_relu_and_identity_in_every_layer():
    model = build(act_learn=0.3)
    seen = []
    for module in model.modules():
        if hasattr(module, "norm1"):
            module.norm1.register_forward_hook(lambda m, a, output: seen.append(output.clone()))
            module.conv2.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    model(images())
    assert len(seen) == 2 * 4  # stem, two stages, classifier
    for before, after in zip(seen[::2], seen[1::2], strict=True):
        torch.testing.assert_close(after, 0.7 * F.relu(before) + 0.3 * before)


@torch.no_grad()
def test_the_slope_is_saved_loaded_and_copied_with_the_model(tmp_path):
    model = build()
    annealed = model(images()).logits
    model.vanillanet.set_act_learn(0.4)  # reaches the classifier, too
    expected = model(images()).logits
    assert not torch.allclose(expected, annealed)
    model.save_pretrained(tmp_path)
    loaded = VanillaNetForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.act_learn == 0.4
    torch.testing.assert_close(loaded(images()).logits, expected)
    twin = copy.deepcopy(model)
    model.set_act_learn(1)
    assert torch.equal(twin(images()).logits, expected)
    assert torch.equal(model(images()).logits, annealed)


@torch.no_grad()
def test_folding_before_the_annealing_ends_is_refused_and_changes_nothing():
    model = build(act_learn=0.99)
    expected = model(images()).logits
    with pytest.raises(RuntimeError, match="act_learn is 0.99"):
        model.reparameterize()
    assert not model.config.reparameterized
    assert torch.equal(model(images()).logits, expected)
    model.set_act_learn(1)
    model.reparameterize()
    for wrong in (0, 0.5):
        with pytest.raises(ValueError, match=rf"act_learn: got {wrong}, but a folded"):
            model.set_act_learn(wrong)
    model.set_act_learn(1)  # what it is


@torch.no_grad()
def test_a_folded_layer_is_one_convolution_with_a_bias():
    folded = build().reparameterize()
    # Stem, stages and classifier; a series activation in all but the classifier.
    assert len([m for m in folded.modules() if isinstance(m, torch.nn.Conv2d)]) == 4 + 3
    assert all(name.endswith(("conv.weight", "conv.bias")) for name in folded.state_dict())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"act_learn": 1.1}, r"act_learn: got 1\.1"),
        ({"act_learn": 0.5, "reparameterized": True}, r"act_learn: got 0\.5 with reparameterized=True"),
        ({"hidden_sizes": [8, 12]}, r"hidden_sizes: got \[8, 12\]"),
        ({"strides": [2, 3]}, r"strides: got \[2, 3\]"),
        ({"act_learn": -0.1}, r"act_learn: got -0\.1"),
        ({"act_num": -1}, "act_num: got -1"),
        ({"num_channels": 0}, "num_channels: got 0"),
        ({"hidden_sizes": [8, 0, 16]}, r"hidden_sizes: got \[8, 0, 16\]"),
        ({"adaptive_pool_sizes": [5, -1]}, r"adaptive_pool_sizes: got \[5, -1\]"),
        ({"deep_training_epochs": -1}, "deep_training_epochs: got -1"),
        ({"adaptive_pool_sizes": [5]}, r"adaptive_pool_sizes: got \[5\]"),
        ({"deep_training_schedule": "cos"}, "deep_training_schedule: got 'cos'"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(StrictDataclassError, match=message):
        VanillaNetConfig(**{**TINY, **wrong})


def test_images_that_are_too_small_are_refused_by_name():
    with pytest.raises(ValueError, match="pixel_values: the images are too small"):
        build()(images(side=7))
    for height, width in ((7, 64), (64, 7)):
        with pytest.raises(ValueError, match="pixel_values: the images are too small"):
            build()(torch.randn(1, 3, height, width))


@pytest.mark.parametrize(
    "strides, pools, side",
    [((2, 2, 2, 1), None, 32), ((2, 1), None, 8), ((2, 2, 1), [0, 0, 0], 11), ((1, 2, 2), [0, 4, 0], 2)],
)
def test_the_smallest_images_are_those_of_the_network(strides, pools, side):
    """Patches of 4 pixels are 4 apart, or 3 with a pixel on each side; a pooling to a size of its own takes any."""
    sizes = {"hidden_sizes": [8] * (len(strides) + 1), "strides": strides, "adaptive_pool_sizes": pools}
    model = hf_effmodels.create_model("vanillanet-5", num_labels=2, **sizes)
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, side, side)).logits.shape == (1, 2)
    assert _smallest_side(model.config) == side
    if pools is None:
        with pytest.raises(ValueError, match=f"This network accepts images from {side}×{side} pixels"):
            model(torch.randn(1, 3, side - 1, side))


# Checkpoints


def official(model, rename):
    """The model's weights under their official names, by `rename` of our names."""
    return {rename(name.removeprefix("vanillanet.")): tensor.clone() for name, tensor in model.state_dict().items()}


def as_trained(name):
    first, _, rest = name.replace("activation.conv.", "act.").replace("activation.norm.", "act.bn.").partition(".")
    halves = {"conv1": "1.0", "norm1": "1.1", "conv2": "2.0", "norm2": "2.1"}
    if first == "stem":
        part, _, leaf = rest.removeprefix("convolution.").partition(".")
        return f"stem2.2.{leaf}" if part == "act" else f"stem{halves[part]}.{leaf}"
    if first == "stages":
        index, _, rest = rest.partition(".")
        part, _, leaf = rest.removeprefix("convolution.").partition(".")
        return f"stages.{index}.act.{leaf}" if part == "act" else f"stages.{index}.conv{halves[part]}.{leaf}"
    part, _, leaf = rest.partition(".")
    return {"conv1": "cls1.2", "norm1": "cls1.3", "conv2": "cls2.0"}[part] + "." + leaf


def as_deployed(name):
    leaf = name.rpartition(".")[2]
    if name.startswith("classifier"):
        return f"cls.2.{leaf}"
    if name.startswith("stem"):
        return f"stem.{1 if 'activation' in name else 0}.{leaf}"
    return f"{'.'.join(name.split('.')[:2])}.{'act' if 'activation' in name else 'conv'}.{leaf}"


@torch.no_grad()
def test_checkpoints_of_both_layouts_convert_and_the_average_is_read(tmp_path):
    model = build()
    expected = model(images()).logits
    trained = official(model, as_trained)
    assert {"stem1.0.weight", "stem2.2.bn.weight", "stages.1.conv2.1.bias", "cls1.3.weight"} <= trained.keys()
    wrong = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    torch.save({"model": wrong, "model_ema": trained, "epoch": 299}, tmp_path / "trained.pth")
    deployed = official(copy.deepcopy(model).reparameterize(), as_deployed)
    assert {"stem.0.bias", "stages.1.act.bias", "stages.1.conv.weight", "cls.2.bias"} <= deployed.keys()
    torch.save({"model": deployed}, tmp_path / "deployed.pth")

    for file, entry, folded in (("trained.pth", "model_ema", False), ("deployed.pth", "model", True)):
        weights, where = read_checkpoint(tmp_path / file)
        assert where == entry
        converted, _ = convert_state_dict(ARCHITECTURES["vanillanet"], VanillaNetConfig(**TINY), weights)
        assert converted.config.reparameterized is folded
        torch.testing.assert_close(converted(images()).logits, expected, rtol=1e-4, atol=1e-5)


# Deep training


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(number % 8)
        return {"pixel_values": torch.randn(3, 16, 16, generator=generator), "labels": number % 4}


class Trace(TrainerCallback):
    def __init__(self):
        self.slopes = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.slopes.append(round(model.config.act_learn, 6))


def trainer(folder, *, epochs=5, trace=None, deep_training_epochs=3, schedule="linear", **arguments):
    """Five epochs of four steps; the slope arrives at 1 in the fourth epoch."""
    model = build(deep_training_epochs=deep_training_epochs, deep_training_schedule=schedule)
    args = RecipeArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="no",
        **arguments,
    )
    return RecipeTrainer(
        model=model,
        args=args,
        train_dataset=Pictures(),
        eval_dataset=Pictures(),
        callbacks=[trace] if trace else [],
    )


@pytest.mark.parametrize(
    "schedule, expected", [("linear", [0, 1 / 3, 2 / 3, 1, 1]), ("cosine", [0, 0.25, 0.75, 1, 1])]
)
def test_the_slope_rises_epoch_by_epoch(tmp_path, schedule, expected):
    trace = Trace()
    run = trainer(tmp_path, trace=trace, schedule=schedule)
    run.train()
    assert trace.slopes == [round(slope, 6) for slope in expected for _ in range(4)]
    run.model.eval().reparameterize()


@torch.no_grad()
def test_every_checkpoint_evaluates_as_it_did_in_training(tmp_path):
    run = trainer(tmp_path, ema_decay=0.5)
    with torch.enable_grad():
        run.train()
    logged = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    samples = [Pictures()[number] for number in range(8)]
    pixels = torch.stack([sample["pixel_values"] for sample in samples])
    labels = torch.tensor([sample["labels"] for sample in samples])
    for epoch, slope in enumerate([0, 1 / 3, 2 / 3, 1, 1]):
        checkpoint = tmp_path / f"checkpoint-{4 * (epoch + 1)}"
        model = VanillaNetForImageClassification.from_pretrained(checkpoint)
        assert model.config.act_learn == pytest.approx(slope)
        assert model.config.deep_training_epochs == (3 if epoch < 3 else 0)
        assert model(pixels, labels=labels).loss.item() == pytest.approx(logged[4 * (epoch + 1)], rel=1e-4)


def test_a_resumed_run_goes_on_with_the_slope_of_its_epoch(tmp_path):
    whole, resumed = Trace(), Trace()
    first = trainer(tmp_path / "whole", trace=whole)
    first.train()
    checkpoints = trainer(tmp_path / "killed", save_steps=6)
    checkpoints.args.save_strategy = "steps"
    checkpoints.train()
    second = trainer(tmp_path / "resumed", trace=resumed)
    second.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-6"))  # in the middle of epoch 1
    assert resumed.slopes == whole.slopes[6:]
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], tensor)


def test_the_best_checkpoint_comes_back_with_its_slope(tmp_path):
    run = trainer(tmp_path, load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=True)
    calls = iter([1, 3, 2, 0, 0])  # the second epoch is the best
    run.compute_metrics = lambda prediction: {"score": next(calls)}
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-8")
    assert run.model.config.act_learn == pytest.approx(1 / 3)
    assert run.model.config.deep_training_epochs == 3
    saved = json.loads((tmp_path / "checkpoint-8" / "config.json").read_text())
    assert saved["act_learn"] == run.model.config.act_learn


def test_a_trained_model_is_not_annealed_again(tmp_path):
    run = trainer(tmp_path, deep_training_epochs=1, epochs=2)
    run.train()
    assert not run.model.training_callbacks()
    run.train()
    assert run.model.config.act_learn == 1


def test_a_run_too_short_to_anneal_says_so(tmp_path, caplog):
    run = trainer(tmp_path, epochs=1, max_steps=1)
    run.train()
    assert caplog.text.count("deep_training_epochs is 3, num_train_epochs 1") == 1  # of all its parts together


@pytest.mark.parametrize("epochs, annealed", [(2, False), (3, False), (4, True)])
def test_epochs_are_enough_where_one_is_left_with_the_identity(epochs, annealed, caplog):
    """The slope of three epochs is 0, 1/3 and 2/3 in them, and 1 in the fourth."""
    model, args = build(deep_training_epochs=3), SimpleNamespace(load_best_model_at_end=False)
    callback, state = DeepTrainingCallback(model), SimpleNamespace(num_train_epochs=epochs, epoch=0.0)
    callback.on_train_begin(args, state, None)
    for epoch in range(epochs):
        state.epoch = float(epoch)
        callback.on_epoch_begin(args, state, None)
    told = f"deep_training_epochs is 3, num_train_epochs {epochs}: .* Train for at least 4 epochs"
    assert bool(re.search(told, caplog.text)) is not annealed
    assert model.config.act_learn == pytest.approx(min(1, (epochs - 1) / 3))
    assert model.config.deep_training_epochs == (0 if annealed else 3)


@pytest.mark.parametrize("off", [-1e-9, 0, 1e-9])
def test_what_divisions_round_off_is_no_epoch(off, tmp_path):
    model = build(deep_training_epochs=4)
    args = SimpleNamespace(load_best_model_at_end=True)
    state = SimpleNamespace(num_train_epochs=5, epoch=0.0, best_model_checkpoint=str(tmp_path))
    callback = DeepTrainingCallback(model)
    callback.on_train_begin(args, state, None)
    state.epoch = 3 + off
    callback.on_epoch_begin(args, state, None)
    assert model.config.act_learn == 0.75
    for epoch, slope in ((1, 0), (2, 0.25), (1.5, 0.25), (5, 1)):  # after its last step an epoch says the next one
        (tmp_path / "trainer_state.json").write_text(json.dumps({"epoch": epoch + off}))
        callback.on_train_end(args, state, None)
        assert model.config.act_learn == slope
    for load, best in ((False, str(tmp_path)), (True, None)):  # the last weights stay
        args.load_best_model_at_end, state.best_model_checkpoint = load, best
        model.set_act_learn(0.5)
        callback.on_train_end(args, state, None)
        assert model.config.act_learn == 0.5


class TwoNetworks(torch.nn.Module):
    """Such as a detector with two VanillaNets in it."""

    def __init__(self, *epochs):
        super().__init__()
        self.parts = torch.nn.ModuleList(
            VanillaNetForImageClassification(VanillaNetConfig(**TINY, deep_training_epochs=number))
            for number in epochs
        )

    def forward(self, pixel_values, labels):
        return {"loss": sum(part(pixel_values, labels=labels).loss for part in self.parts)}


def test_networks_inside_others_are_annealed_each_as_its_configuration_says(tmp_path):
    model = TwoNetworks(2, 4)
    assert len(training_callbacks(model)) == 2
    slopes = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            slopes.append([part.config.act_learn for part in model.parts])

    args = RecipeArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=4, save_strategy="no"
    )
    RecipeTrainer(model=model, args=args, train_dataset=Pictures(), callbacks=[Watch()]).train()
    assert slopes == [[0, 0]] * 2 + [[0.5, 0.25]] * 2 + [[1, 0.5]] * 2


def test_a_network_that_is_named_is_annealed_alone():
    """What is trained may hold others, such as a teacher, that are to stay as they are."""
    model = TwoNetworks(2, 2)
    args, state = SimpleNamespace(load_best_model_at_end=False), SimpleNamespace(num_train_epochs=3, epoch=0.0)
    DeepTrainingCallback(model.parts[0]).on_train_begin(args, state, None, model=model)
    assert [part.config.act_learn for part in model.parts] == [0, 1]
    DeepTrainingCallback().on_train_begin(args, state, None, model=model)
    assert [part.config.act_learn for part in model.parts] == [0, 0]


# Learning rates


def test_layers_further_down_learn_more_slowly_and_only_matrices_decay():
    model = build()
    model.classifier.conv2.bias.requires_grad_(False)
    groups = layer_decay_groups(model, 0.5, learning_rate=8.0, weight_decay=0.3)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    named = {name: found.get(id(parameter)) for name, parameter in model.named_parameters()}
    assert named["vanillanet.stem.convolution.conv1.weight"] == (1.0, 0.3)
    assert named["vanillanet.stem.activation.norm.weight"] == (1.0, 0.0)
    assert named["vanillanet.stages.0.convolution.conv2.weight"] == (2.0, 0.3)
    assert named["vanillanet.stages.1.activation.conv.weight"] == (4.0, 0.3)
    assert named["classifier.conv1.weight"] == (8.0, 0.3)
    assert named["classifier.conv1.bias"] == (8.0, 0.0)
    assert named["classifier.conv2.bias"] is None
    assert len(groups) == 8
    with pytest.raises(ValueError, match=r"decay: got 1\.5"):
        layer_decay_groups(model, 1.5, learning_rate=8.0, weight_decay=0.3)


def test_the_schedule_keeps_the_layers_proportion():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 0.5}])
    schedule = warmup_cosine_schedule(optimizer, 3, 7, min_lr=0.2)
    rates = []
    for _ in range(8):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert [first for first, _ in rates] == pytest.approx([0, 0.5, 1, 1, 0.8828427, 0.6, 0.3171573, 0.2])
    assert [second for _, second in rates] == pytest.approx([first / 2 for first, _ in rates])


# The network, by hand


def vanillanet_by_hand(weights, config, pixels):
    """Two convolutions with an annealed activation between, max-pooling, and the series activation: section 3."""
    eps, slope, reach = config.batch_norm_eps, config.act_learn, config.act_num

    def layer(name, hidden, stride=1, padding=0, last=True):
        first, second = (f"{name}.conv{index}" for index in (1, 2))
        hidden = F.conv2d(hidden, weights[f"{first}.weight"], weights[f"{first}.bias"], stride, padding)
        hidden = by_hand.norm(weights, f"{name}.norm1", hidden, eps)
        hidden = (1 - slope) * hidden.relu() + slope * hidden
        hidden = F.conv2d(hidden, weights[f"{second}.weight"], weights[f"{second}.bias"])
        return by_hand.norm(weights, f"{name}.norm2", hidden, eps) if last else hidden

    def series(name, hidden):
        kernel, (height, width) = weights[f"{name}.activation.conv.weight"], hidden.shape[2:]
        assert kernel.shape[-1] == 2 * reach + 1
        padded = F.pad(hidden.relu(), (reach,) * 4)
        summed = sum(
            kernel[:, 0, row, column, None, None] * padded[:, :, row : row + height, column : column + width]
            for row in range(2 * reach + 1)
            for column in range(2 * reach + 1)
        )
        return by_hand.norm(weights, f"{name}.activation.norm", summed, eps)

    stride, padding = (3, 1) if config.adaptive_pool_sizes else (4, 0)
    hidden = series("stem", layer("stem.convolution", pixels, stride, padding))
    for index, stride in enumerate(config.strides):
        hidden = layer(f"stages.{index}.convolution", hidden)
        if stride == 2 and config.adaptive_pool_sizes and config.adaptive_pool_sizes[index]:
            hidden = F.adaptive_max_pool2d(hidden, config.adaptive_pool_sizes[index])
        elif stride == 2:
            hidden = F.max_pool2d(hidden, 2)
        hidden = series(f"stages.{index}", hidden)
    return layer("classifier", hidden.mean((2, 3), keepdim=True), last=False).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("pools", [None, [0, 9, 7]])
@pytest.mark.parametrize("slope, reach", [(0.3, 2), (1, 1), (0, 0)])
def test_the_network_is_the_published_formula_with_any_setting(pools, slope, reach):
    config = VanillaNetConfig(
        num_channels=2,
        hidden_sizes=[6, 10, 8, 8],
        strides=[2, 2, 1],
        act_num=reach,
        adaptive_pool_sizes=pools,
        act_learn=slope,
        batch_norm_eps=0.05,
        num_labels=3,
        initializer_range=0.3,
    )
    model = VanillaNetForImageClassification(config).eval().double()
    pixels = torch.randn(2, 2, 75, 80, dtype=torch.float64)
    expected = vanillanet_by_hand(by_hand.weights_of(model), config, pixels)
    torch.testing.assert_close(model(pixels).logits, expected)
    if slope == 1:
        torch.testing.assert_close(model.reparameterize()(pixels).logits, expected)


def test_weights_start_with_the_given_deviation():
    model = hf_effmodels.VanillaNetModel(VanillaNetConfig(hidden_sizes=[64, 96], strides=[2], initializer_range=0.3))
    weights = model.stages[0].convolution.conv1.weight
    assert weights.std().item() == pytest.approx(0.3, rel=0.05)
    assert model.stages[0].convolution.conv1.bias.abs().max() == 0


def test_the_slope_of_an_epoch_is_the_papers_and_one_from_the_end_on():
    from hf_effmodels.modeling.vanillanet.deep_training import act_learn_at

    assert [act_learn_at(epoch, 4) for epoch in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    cosine = [act_learn_at(epoch, 3, "cosine") for epoch in range(5)]
    assert cosine == pytest.approx([0, 0.25, 0.75, 1, 1])
    assert act_learn_at(0, 0) == act_learn_at(0, 0, "cosine") == 1
