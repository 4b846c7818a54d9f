"""Losses beside the task's own: weighted, the mean over a whole step however it is divided, logged by name."""

from types import SimpleNamespace

import pytest
import torch

from hf_effmodels.training.run.added_losses import AddedLoss, AddedLosses

from .conftest import START, Line, LineByItems, Points, logged

WEIGHT = 0.25


def energy(model, inputs, outputs):
    """Of a batch; asks for the batch with its labels and for the model, as a distillation does."""
    assert inputs["labels"].shape == outputs["predicted"].shape
    return (outputs["predicted"] ** 4 + inputs["labels"].abs()).mean()


def by_hand(points, steps, weight=WEIGHT):
    """Gradient descent on batches of so many points: the weights afterwards, and each step's losses."""
    w, losses = torch.tensor(START, dtype=torch.float64, requires_grad=True), []
    start = 0
    for size in steps:
        x, y = points.x[start : start + size].double(), points.y[start : start + size].double()
        start += size
        task, added = (x @ w - y).square().mean(), ((x @ w) ** 4 + y.abs()).mean()
        (gradient,) = torch.autograd.grad(task + weight * added, w)
        losses.append([task.item(), added.item(), (task + weight * added).item()])
        w = (w - 0.1 * gradient).detach().requires_grad_()
    return w.detach(), torch.tensor(losses)


@pytest.mark.parametrize("model", [Line, LineByItems])
@pytest.mark.parametrize("size, accumulated", [(8, 1), (1, 8), (4, 2)])
def test_a_step_is_trained_on_the_weighted_sum_of_means_over_all_of_its_samples(
    line_trainer, model, size, accumulated
):
    points = Points(16)
    trainer = line_trainer(model(), points, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated)
    trainer.add_loss("energy", energy, weight=WEIGHT)
    trainer.train()
    weights, losses = by_hand(points, [8, 8])
    torch.testing.assert_close(trainer.model.w.detach(), weights.float())
    for column, key in enumerate(("task_loss", "energy", "loss")):
        torch.testing.assert_close(torch.tensor(logged(trainer, key)), losses[:, column], check_dtype=False)


@pytest.mark.parametrize("model", [Line, LineByItems])
@pytest.mark.parametrize("accumulated, steps", [(2, [6, 5]), (3, [9, 2])])
def test_batches_of_different_sizes_count_by_their_items(line_trainer, model, accumulated, steps):
    """11 points in batches of 3: the last step is of 3 + 2, or of a single batch of 2. So do the parts of a task's
    loss that are logged beside it."""
    points = Points(11)
    sizes = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": accumulated}
    trainer = line_trainer(model(), points, **sizes)
    trainer.add_loss("energy", energy, weight=WEIGHT)
    trainer.named_parts = lambda outputs: {"fourth": (outputs["predicted"] ** 4).mean()}
    trainer.train()
    weights, losses = by_hand(points, steps)
    torch.testing.assert_close(trainer.model.w.detach(), weights.float())
    for column, key in enumerate(("task_loss", "energy", "loss")):
        torch.testing.assert_close(torch.tensor(logged(trainer, key)), losses[:, column], check_dtype=False)
    if model is Line:
        fourth = losses[:, 1] - torch.stack([y.abs().mean() for y in points.y.split(steps)])
        torch.testing.assert_close(torch.tensor(logged(trainer, "fourth")), fourth, check_dtype=False)


def test_a_mean_over_other_items_than_samples_counts_by_those(line_trainer):
    points = Points(8)
    positive = lambda inputs: inputs["labels"].gt(0).sum()  # noqa: E731

    def mean_of_positive(model, inputs, outputs):
        chosen = outputs["predicted"][inputs["labels"] > 0]
        return chosen.sum() / max(1, len(chosen))

    trainer = line_trainer(LineByItems(), points, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    trainer.add_loss("positive", mean_of_positive, weight=3.0, count=positive)
    trainer.train()
    chosen = points.y > 0
    assert len({int(part.sum()) for part in chosen.split(2)}) > 1  # or all ways to weigh the batches were the same
    expected = (points.x @ torch.tensor(START))[chosen].mean()
    assert logged(trainer, "positive") == [pytest.approx(expected.item(), rel=1e-5)]


def test_what_is_logged_is_the_mean_over_the_steps_since_the_last_time(line_trainer):
    points = Points(24)
    trainer = line_trainer(Line(), points, per_device_train_batch_size=4, logging_steps=3)
    trainer.add_loss("energy", energy, weight=0)
    trainer.train()
    weights, losses = by_hand(points, [4] * 6, weight=0)
    torch.testing.assert_close(trainer.model.w.detach(), weights.float())
    expected = losses[:, 1].reshape(2, 3).mean(1)
    torch.testing.assert_close(torch.tensor(logged(trainer, "energy")), expected, check_dtype=False)


def test_an_evaluation_measures_the_task_alone(line_trainer):
    """Also one in the midst of a training, of which the log of the losses says nothing."""
    points = Points(16)
    settings = {"per_device_train_batch_size": 8, "eval_strategy": "steps", "eval_steps": 1}
    trainer = line_trainer(Line(), points, **settings)
    trainer.add_loss("energy", energy, weight=WEIGHT)
    trainer.named_parts = lambda outputs: {"fourth": (outputs["predicted"] ** 4).mean()}
    measured = [trainer.evaluate(points)["eval_loss"]]
    trainer.train()
    measured += [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    steps = [by_hand(points, [8] * count) for count in range(3)]
    expected = [(points.x.double() @ weights - points.y).square().mean().item() for weights, _ in steps]
    assert measured == pytest.approx(expected, rel=1e-5)
    assert logged(trainer, "energy") == pytest.approx(steps[2][1][:, 1].tolist(), rel=1e-5)


@pytest.mark.parametrize(
    "name, weight, message",
    [
        *(
            (name, 1.0, f"name: got '{name}', which the log has already")
            for name in ("loss", "task_loss", "grad_norm", "learning_rate", "epoch", "step", "train_loss")
        ),
        ("energy", 1.0, "name: got 'energy'"),
        ("eval_loss", 1.0, "name: got 'eval_loss'"),
        ("other", float("nan"), "weight: got nan, accepted are finite numbers"),
    ],
)
def test_a_name_that_is_taken_and_a_weight_that_is_none_are_refused(line_trainer, name, weight, message):
    trainer = line_trainer(Line(), Points(8))
    trainer.add_loss("energy", energy)
    with pytest.raises(ValueError, match=message):
        trainer.add_loss(name, energy, weight=weight)


def test_a_loss_counts_by_the_items_of_all_processes_and_is_logged_as_a_mean_over_steps():
    """Two processes alike, by an accelerator that doubles what it sums: a batch has half of its share."""
    two = SimpleNamespace(device="cpu", reduce=lambda value, how: {"sum": 2.0, "mean": 1.0}[how] * value)
    losses = AddedLosses()
    losses.add("near", AddedLoss(lambda model, inputs, outputs: torch.tensor(outputs), 0.5, lambda batch: batch["n"]))
    batches = [{"n": 1}, {"n": 3}]
    losses.begin_step(batches, two)
    found = [losses.of_batch(None, batch, value) for batch, value in zip(batches, (8.0, 16.0), strict=True)]
    assert [float(value) for value in found] == [0.5 * 8 / 8, 0.5 * 16 * 3 / 8]
    assert losses.of_batch(None, {"n": 3}, 100.0, idle=True) == 0.0
    assert losses.take(two) == {"near": 2 * (1 + 6)}
    # A step without any item adds nothing, and counts as a step.
    losses.begin_step([{"n": 0}], two)
    assert losses.of_batch(None, {"n": 0}, 5.0) == 0.0
    losses.begin_step([{"n": 2}], two)
    losses.of_batch(None, {"n": 2}, 6.0)
    assert losses.take(two) == {"near": 2 * 3.0 / 2}
    assert losses.take(two) == {}
    # What was asked for in vain is forgotten, as are its steps.
    losses.begin_step([{"n": 2}], two)
    assert losses.take(two) == {}
    losses.begin_step([{"n": 2}], two)
    losses.of_batch(None, {"n": 2}, 6.0)
    assert losses.take(two) == {"near": 6.0}
