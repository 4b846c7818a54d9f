"""Every sample of an epoch is in one batch of one process, and a step weighs all of its samples the same."""

import numpy as np
import pytest
import torch

from hf_effmodels.training.run.sampling import EpochSampler, SharedBatches
from hf_effmodels.training.run.trainer import RecipeTrainer

from ...processes import run_in_two
from .conftest import START, Line, LineByItems, Points, logged
from .test_added_losses import by_hand, energy


@pytest.mark.parametrize(
    "length, size, processes, last",
    [
        (12, 3, 2, [[6, 7, 8], [9, 10, 11]]),
        (11, 3, 2, [[6, 7, 8], [9, 10]]),
        (8, 3, 2, [[6], [7]]),
        (7, 3, 2, [[6], [6]]),
        (14, 2, 4, [[8, 9], [10, 11], [12], [13]]),
        (9, 2, 4, [[8], [8], [8], [8]]),
        (10, 2, 4, [[8], [9], [9], [9]]),
        (5, 8, 3, [[0, 1], [2, 3], [4]]),
    ],
)
def test_what_is_left_at_the_end_of_an_epoch_is_shared_out_evenly(length, size, processes, last):
    batches = SharedBatches(EpochSampler(length, 0, shuffle=False), size, processes)
    listed = list(batches)
    assert listed[-processes:] == last and len(listed) == len(batches)
    left = length % (size * processes)
    idle = [batches.is_idle(process) for process in range(processes)]
    assert idle == [0 < left <= process for process in range(processes)]
    seen = [
        n for at, batch in enumerate(listed) for n in batch if at < len(listed) - processes or not idle[at % processes]
    ]
    assert sorted(seen) == list(range(length))


def test_repeated_samples_lie_side_by_side_and_each_copy_is_an_epoch_of_its_own():
    sampler = EpochSampler(7, 0, repeats=3)
    for epoch in (0, 2):
        sampler.epoch = epoch
        numbers = np.array(list(sampler))
        rounds, samples = np.divmod(numbers, 7)
        plain = EpochSampler(7, 0)
        plain.epoch = epoch
        first = np.array(list(plain)) % 7
        assert samples.tolist() == [*first.repeat(3)[:7]]
        assert rounds.tolist() == [3 * epoch + copy for copy in (0, 1, 2, 0, 1, 2, 0)]
    assert {*(np.array(list(sampler)) // 7)} == {6, 7, 8}, "no round of another epoch"


def test_every_epoch_has_an_order_of_its_own_that_depends_on_the_seed():
    orders = {}
    for seed in (0, 1):
        sampler = EpochSampler(50, seed)
        for epoch in (0, 1):
            sampler.epoch = epoch
            numbers = np.array(list(sampler))
            assert sorted(numbers - 50 * epoch) == list(range(50))
            orders[seed, epoch] = tuple(numbers - 50 * epoch)
    assert len(set(orders.values())) == 4


class Statistics(Line):
    """With a batch norm beside, which sees each batch and changes nothing."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2, affine=False, momentum=None)

    def forward(self, x, labels):
        self.norm(x)
        return super().forward(x, labels)


def train_and_keep(make, model, points, file, arguments, checkpoint=None):
    trainer = make(model, points, **arguments)
    trainer.add_loss("energy", energy, weight=0.25)
    trainer.named_parts = lambda outputs: {"fourth": (outputs["predicted"] ** 4).mean()}
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        logs = {key: logged(trainer, key) for key in ("loss", "task_loss", "energy", "fourth")}
        torch.save({"state": trainer.model.state_dict(), "logs": logs}, file)


@pytest.mark.parametrize("model", [Statistics, LineByItems])
@pytest.mark.parametrize("number, steps", [(11, [8, 3]), (9, [8, 1])])
def test_two_processes_train_on_the_samples_of_an_incomplete_last_step_as_one_does(
    line_trainer, tmp_path, model, number, steps
):
    # 11 points: 8 in four batches of two, then two and one. 9 points: the second process has nothing left.
    points, file = Points(number), tmp_path / "kept.pt"
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "disable_tqdm": True}
    sizes["ddp_broadcast_buffers"] = False  # each process keeps its own statistics
    run_in_two(train_and_keep, line_trainer, model(), points, file, sizes)
    kept = torch.load(file, weights_only=True)  # noqa: TID251
    weights, losses = by_hand(points, steps)
    torch.testing.assert_close(kept["state"]["w"], weights.float())
    for column, key in enumerate(("task_loss", "energy", "loss")):
        torch.testing.assert_close(torch.tensor(kept["logs"][key]), losses[:, column], check_dtype=False)
    if model is Statistics:
        fourth = losses[:, 1] - torch.stack([y.abs().mean() for y in points.y.split(steps)])
        torch.testing.assert_close(torch.tensor(kept["logs"]["fourth"]), fourth, check_dtype=False)
        # Each process has the mean over its batches of more than one point, and what is saved is the mean of both.
        own = [[points.x[0:2], points.x[4:6]], [points.x[2:4], points.x[6:8]]]
        if number == 11:
            own[0].append(points.x[8:10])
        means = [torch.stack([batch.mean(0) for batch in batches]).mean(0) for batches in own]
        torch.testing.assert_close(kept["state"]["norm.running_mean"], sum(means) / 2)


def test_two_processes_go_on_before_an_incomplete_last_step(line_trainer, tmp_path):
    points, file = Points(9), tmp_path / "kept.pt"
    sizes = {"per_device_train_batch_size": 2, "disable_tqdm": True, "num_train_epochs": 2}
    sizes |= {"save_strategy": "steps", "save_steps": 2}
    ends = []
    for checkpoint in (None, str(tmp_path / "run" / "checkpoint-2")):  # three steps an epoch, of 4, 4 and 1
        run_in_two(train_and_keep, line_trainer, Line(), points, file, sizes, checkpoint)
        ends.append(torch.load(file, weights_only=True)["state"]["w"])  # noqa: TID251
    assert torch.equal(*ends)
    twice = Points(9)
    twice.x, twice.y = twice.x.repeat(2, 1), twice.y.repeat(2)
    torch.testing.assert_close(ends[0], by_hand(twice, [4, 4, 1] * 2)[0].float())


def test_one_process_weighs_the_samples_of_accumulated_batches_the_same(line_trainer):
    points = Points(11)
    trainer = line_trainer(Line(), points, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    trainer.train()
    weights, losses = by_hand(points, [6, 5], weight=0)
    torch.testing.assert_close(trainer.model.w.detach(), weights.float())
    torch.testing.assert_close(torch.tensor(logged(trainer, "loss")), losses[:, 2], check_dtype=False)
    assert trainer.model.w.tolist() != list(START)


def test_what_is_left_out_of_an_epoch_does_not_count(line_trainer):
    """Of eleven points five batches of two: steps of two batches, of two and of one."""
    points = Points(11)
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "dataloader_drop_last": True}
    trainer = line_trainer(Line(), points, **sizes)
    trainer.train()
    weights, losses = by_hand(points, [4, 4, 2], weight=0)
    torch.testing.assert_close(trainer.model.w.detach(), weights.float())
    torch.testing.assert_close(torch.tensor(logged(trainer, "loss")), losses[:, 2], check_dtype=False)


def test_a_loss_function_of_ones_own_is_given_the_items_of_the_step_and_weighed_by_nobody_else(line_trainer):
    points = Points(11)

    class Predicts(Line):
        def forward(self, x):
            return {"predicted": x @ self.w}

    def squares(outputs, labels, num_items_in_batch=None):
        return (outputs["predicted"] - labels).square().sum() / num_items_in_batch

    args = line_trainer(Line(), points, per_device_train_batch_size=3, gradient_accumulation_steps=2).args
    trainer = RecipeTrainer(model=Predicts(), args=args, train_dataset=points, compute_loss_func=squares)
    trainer.train()
    weights, losses = by_hand(points, [6, 5], weight=0)
    torch.testing.assert_close(trainer.model.w.detach(), weights.float())
    torch.testing.assert_close(torch.tensor(logged(trainer, "loss")), losses[:, 2], check_dtype=False)
