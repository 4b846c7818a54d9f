"""Sub-models that learn together."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_effmodels.compression.elastic import extract_submodel
from hf_effmodels.training.elastic import DelayedShrinking, SortedTraining, sandwich_backward

SUBMODELS = [{"num_hidden_layers": 1}, {"num_hidden_layers": 2, "intermediate_size": 16}, {}]


class SortedTrainer(SortedTraining, Trainer):
    pass


def _model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
    )


def _data(number=16):
    generator = torch.Generator().manual_seed(5)
    starts = torch.randint(0, 31, (number, 1), generator=generator)
    strides = torch.randint(1, 9, (number, 1), generator=generator)
    rows = (starts + strides * torch.arange(12)) % 31  # what comes next can be learnt from the two before
    return [{"input_ids": row, "labels": row} for row in rows]


def _trainer(folder, model, **options):
    settings = {"learning_rate": 0.1, "optim": "sgd", "max_steps": 1, "per_device_train_batch_size": 4}
    arguments = {**settings, **options.pop("arguments", {})}
    arguments = TrainingArguments(
        folder, **arguments, report_to="none", save_strategy="no", use_cpu=True, max_grad_norm=0, disable_tqdm=True,
        lr_scheduler_type="constant",
    )  # fmt: skip
    return SortedTrainer(model, arguments, train_dataset=_data(), **{"submodels": SUBMODELS, **options})


@pytest.mark.parametrize("drawn", [3, 2])
def test_a_step_follows_the_mean_of_the_losses_of_sub_models(tmp_path, drawn):
    model, expected = _model(), _model()
    trainer = _trainer(tmp_path, model, submodels_per_step=drawn)
    (batch,) = [next(iter(trainer.get_train_dataloader()))]
    trainer.train()
    # By hand: plain models of each size, their gradients added where their weights came from.
    for number in trainer.draw_submodels(0):
        sizes = SUBMODELS[number]
        plain = extract_submodel(expected, **sizes) if sizes else _model()
        (plain(**batch).loss / drawn).backward()
        for name, weight in plain.named_parameters():
            whole = expected.get_parameter(name)
            whole.grad = torch.zeros_like(whole) if whole.grad is None else whole.grad
            whole.grad[tuple(map(slice, weight.shape))] += weight.grad
    for name, weight in expected.named_parameters():
        moved = weight if weight.grad is None else weight - 0.1 * weight.grad
        torch.testing.assert_close(model.get_parameter(name), moved, msg=name)


def test_accumulated_batches_take_the_step_of_one_large_batch(tmp_path):
    models = []
    for batch, accumulated in ((8, 1), (2, 4)):
        models.append(_model())
        arguments = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "max_steps": 2}
        _trainer(tmp_path, models[-1], arguments=arguments, submodels_per_step=2).train()
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_draws_depend_on_the_step_and_reach_every_sub_model(tmp_path):
    trainer = _trainer(tmp_path, _model(), submodels_per_step=2)
    draws = [trainer.draw_submodels(step) for step in range(30)]
    assert draws == [trainer.draw_submodels(step) for step in range(30)]
    trainer.args.seed += 1
    assert draws != [trainer.draw_submodels(step) for step in range(30)]
    assert {tuple(sorted(draw)) for draw in draws} == {(0, 1), (0, 2), (1, 2)}


def test_each_sorted_sub_model_is_better_than_the_same_part_of_a_plainly_trained_one(tmp_path):
    losses = {}
    batch = {"input_ids": torch.stack([row["input_ids"] for row in _data()])}
    for name, submodels in (("plain", [{}]), ("sorted", SUBMODELS)):
        model = _model()
        arguments = {"max_steps": 60, "learning_rate": 1e-2, "optim": "adamw_torch", "per_device_train_batch_size": 8}
        _trainer(tmp_path, model, submodels=submodels, arguments=arguments).train()
        with torch.no_grad():
            parts = [extract_submodel(model.eval(), **sizes) for sizes in SUBMODELS[:2]]
            losses[name] = [part(**batch, labels=batch["input_ids"]).loss.item() for part in parts]
    for plain, together in zip(losses["plain"], losses["sorted"], strict=True):
        assert together < 0.7 * plain


def test_wrong_settings_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="submodels: got none"):
        _trainer(tmp_path, _model(), submodels=[])
    with pytest.raises(ValueError, match="submodels_per_step: got 4, accepted are 1 to 3"):
        _trainer(tmp_path, _model(), submodels_per_step=4)
    with pytest.raises(ValueError, match="submodels_per_step: got 0, accepted are 1 to 3"):
        _trainer(tmp_path, _model(), submodels_per_step=0)
    with pytest.raises(ValueError, match="num_hidden_layers: got 9, accepted are 1 to 3"):
        _trainer(tmp_path, _model(), submodels=[{"num_hidden_layers": 9}])
    smoothed = {"label_smoothing_factor": 0.1}
    with pytest.raises(
        ValueError, match="label_smoothing_factor: the models' own losses are trained on; accepted is 0"
    ):
        _trainer(tmp_path, _model(), arguments=smoothed)
    # Who computes the loss can smooth it.
    _trainer(tmp_path, _model(), arguments=smoothed, compute_loss_func=lambda outputs, labels, **options: outputs.loss)
    with pytest.raises(ValueError, match="gradient_checkpointing: got True, accepted is False for sub-models"):
        _trainer(tmp_path, _model(), arguments={"gradient_checkpointing": True})


@pytest.mark.parametrize("wrapped", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_weights_in_parts_have_no_sub_models(tmp_path, wrapped):
    class InParts(Trainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            setattr(self, wrapped, True)

    class SortedInParts(SortedTraining, InParts):
        pass

    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match="submodels: they need the weights whole; .* without FSDP and DeepSpeed"):
        SortedInParts(_model(), arguments, train_dataset=_data(), submodels=SUBMODELS)


def test_all_sub_models_are_trained_in_a_step_unless_fewer_are_asked_for(tmp_path):
    trainer = _trainer(tmp_path, _model())
    assert trainer.submodels_per_step == 3 and sorted(trainer.draw_submodels(4)) == [0, 1, 2]


def test_shrinking_begins_softly_and_climbs_to_the_multiplier():
    schedule = DelayedShrinking(10, 6, 2, batches_per_epoch=5, base_lr=0.4, multiplier=0.5)
    rates = [
        schedule.weight(epoch, batch) * schedule.learning_rate(epoch, batch) for epoch in (4, 5) for batch in range(5)
    ]
    steps = torch.tensor(rates).diff()
    torch.testing.assert_close(steps, steps[:1].expand(9))  # the effective rate climbs in a line
    assert rates[0] == pytest.approx(0.1 * 0.5 * schedule.learning_rate(7))
    assert schedule.weight(3, 4) == 0 and not schedule.trains_others(3) and schedule.weight(6) == 0.5
    assert schedule.trains_others(4)
    assert [schedule.learning_rate(epoch) for epoch in (0, 5, 10)] == pytest.approx([0.4, 0.2, 0])
    told = DelayedShrinking(10, 6, 2, batches_per_epoch=5, base_lr=0.4, lr_at_start=0.3)
    assert told.weight(5, 4) * told.learning_rate(5, 4) == pytest.approx(0.3) and told.weight(6) == 1.0


@pytest.mark.parametrize(
    "settings, message",
    [
        *(
            ({name: 0}, f"^{name}: got 0, accepted are whole numbers from 1")
            for name in ("epochs", "batches_per_epoch")
        ),
        ({"warmup_epochs": 7}, "warmup_epochs, full_model_epochs: got 7 and 6, accepted are .* <= 10, the epochs"),
        ({"warmup_epochs": -1}, "warmup_epochs, full_model_epochs: got -1 and 6"),
        ({"full_model_epochs": 11}, "warmup_epochs, full_model_epochs: got 2 and 11"),
        *(
            ({"base_lr": value}, f"^base_lr: got {value}, accepted are positive numbers")
            for value in (0, float("inf"))
        ),
        ({"multiplier": -0.5}, "^multiplier: got -0.5"),
    ],
)
def test_a_shrinking_that_cannot_be_is_named(settings, message):
    possible = {"epochs": 10, "full_model_epochs": 6, "warmup_epochs": 2, "batches_per_epoch": 5, "base_lr": 0.1}
    with pytest.raises(ValueError, match=message):
        DelayedShrinking(**{**possible, **settings})
    edge = DelayedShrinking(**{**possible, "full_model_epochs": 10, "warmup_epochs": 10})
    assert edge.trains_others(0) and 0 < edge.weight(0) < edge.weight(1)
    assert not DelayedShrinking(**{**possible, "warmup_epochs": 0}).trains_others(5)


def test_the_sandwich_weighs_the_others_and_smooths_the_largest():
    torch.manual_seed(3)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    inputs, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    run = lambda width: inputs[:, :width] @ weight[:width]  # noqa: E731
    losses = sandwich_backward(run, 5, [2], labels, label_smoothing=0.1, temperature=2.0, weight=0.25)
    found = weight.grad.clone()
    largest, smaller = run(5), run(2)
    smoothed = 0.9 * torch.nn.functional.one_hot(labels, 4) + 0.1 / 4
    first = -(smoothed * largest.log_softmax(1)).sum(1).mean()
    second = -4 * ((largest.detach() / 2).softmax(1) * (smaller / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(torch.stack(losses), torch.stack([first, second]).detach())
    (expected,) = torch.autograd.grad(first + 0.25 * second, weight)
    torch.testing.assert_close(found, expected)
    assert len(sandwich_backward(run, 5, [2], labels, weight=0.0)) == 1
    # Neither smooth, nor warm, nor weighed, unless asked for.
    weight.grad = None
    plain = sandwich_backward(run, 5, [2, 3], labels)
    largest = run(5)
    first = torch.nn.functional.nll_loss(largest.log_softmax(1), labels)
    others = [-(largest.detach().softmax(1) * run(width).log_softmax(1)).sum(1).mean() for width in (2, 3)]
    torch.testing.assert_close(torch.stack(plain), torch.stack([first, *others]).detach())
    (expected,) = torch.autograd.grad(first + sum(others), weight)
    torch.testing.assert_close(weight.grad, expected)


def test_a_name_that_elastic_training_does_not_have_is_an_attribute_error():
    from hf_effmodels.training import elastic

    assert elastic.DelayedShrinking is DelayedShrinking
    with pytest.raises(AttributeError, match="hf_effmodels.training.elastic' has no attribute 'Shrinking'"):
        elastic.Shrinking  # noqa: B018
