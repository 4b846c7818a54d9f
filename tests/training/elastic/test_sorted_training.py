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
    with pytest.raises(ValueError, match="num_hidden_layers: got 9, accepted are 1 to 3"):
        _trainer(tmp_path, _model(), submodels=[{"num_hidden_layers": 9}])


def test_shrinking_begins_softly_and_climbs_to_the_multiplier():
    schedule = DelayedShrinking(10, 6, 2, batches_per_epoch=5, base_lr=0.4, multiplier=0.5)
    rates = [
        schedule.weight(epoch, batch) * schedule.learning_rate(epoch, batch) for epoch in (4, 5) for batch in range(5)
    ]
    steps = torch.tensor(rates).diff()
    torch.testing.assert_close(steps, steps[:1].expand(9))  # the effective rate climbs in a line
    assert rates[0] == pytest.approx(0.1 * 0.5 * schedule.learning_rate(7))
    assert schedule.weight(3, 4) == 0 and not schedule.trains_others(3) and schedule.weight(6) == 0.5
    with pytest.raises(ValueError, match="warmup_epochs, full_model_epochs: got 7 and 6"):
        DelayedShrinking(10, 6, 7, 5, 0.1)


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
