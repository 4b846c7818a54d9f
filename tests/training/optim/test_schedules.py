"""Learning rates step by step, against the formulas; what no schedule can be made of is named."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_effmodels.training.optim.detection_schedule import (
    DetectionSchedule,
    norm_weight_bias_groups,
    ramped_decay,
    scaled_weight_decay,
)
from hf_effmodels.training.optim.schedules import (
    cosine_over_warmup_schedule,
    inverse_decay_schedule,
    step_decay_schedule,
    warmup_cosine_schedule,
)


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)


def rates_of(make, *rates: float, steps: int) -> list[list[float]]:
    """Of each group, at each step."""
    groups = optimizer(*rates)
    schedule, found = make(groups), []
    for _ in range(steps):
        found.append([group["lr"] for group in groups.param_groups])
        groups.step()
        schedule.step()
    return [list(of_group) for of_group in zip(*found, strict=True)]


def half_cosine(share: float, low: float, high: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def test_the_warmed_cosine_reaches_its_peak_at_the_last_step_of_the_warm_up_and_stays_at_its_end():
    highest, other = rates_of(lambda o: warmup_cosine_schedule(o, 3, 7, min_lr=0.02), 0.2, 0.1, steps=9)
    expected = [0, 0.1, 0.2, *(half_cosine(s / 4, 0.02, 0.2) for s in range(4)), 0.02, 0.02]
    assert highest == pytest.approx(expected) and other == pytest.approx([rate / 2 for rate in expected])
    (without,) = rates_of(lambda o: warmup_cosine_schedule(o, 0, 4), 0.2, steps=4)
    assert without == pytest.approx([half_cosine(s / 4, 0, 0.2) for s in range(4)])
    (one,) = rates_of(lambda o: warmup_cosine_schedule(o, 1, 4), 0.2, steps=2)
    assert one == pytest.approx([0, 0.2])


@pytest.mark.parametrize("prefix", [False, True])
def test_the_cosine_over_the_warm_up_has_its_clock_from_the_first_step_or_from_the_warm_ups_end(prefix):
    options = {"warmup_lr": 0.04, "min_lr": 0.02, "warmup_prefix": prefix}
    highest, other = rates_of(lambda o: cosine_over_warmup_schedule(o, 2, 8, **options), 0.2, 0.1, steps=10)
    shares = [(s - 2) / 6 if prefix else s / 8 for s in range(2, 8)] + [1, 1]
    expected = [0.04, 0.12, *(half_cosine(share, 0.02, 0.2) for share in shares)]
    assert highest == pytest.approx(expected) and other == pytest.approx([rate / 2 for rate in expected])


def test_what_a_schedule_is_not_told_is_what_its_source_has():
    """timm's numbers of GhostNetV2, and those of the paper on domain adaptation."""
    (steps,) = rates_of(lambda o: step_decay_schedule(o, 1), 0.5, steps=6)
    warmup = [1e-6 + (0.5 - 1e-6) * epoch / 3 for epoch in range(3)]
    assert steps == pytest.approx([*warmup, 0.5 * 0.973, 0.5 * 0.973, 0.5 * 0.973**2])
    (inverse,) = rates_of(inverse_decay_schedule, 0.5, steps=3)
    assert inverse == pytest.approx([0.5, 0.5 / 1.001**0.75, 0.5 / 1.002**0.75])
    (cosine,) = rates_of(lambda o: cosine_over_warmup_schedule(o, 2, 4), 0.2, steps=4)
    assert cosine == pytest.approx([0, 0.1, half_cosine(2 / 4, 0, 0.2), half_cosine(3 / 4, 0, 0.2)])


def test_a_learning_rate_of_zero_stays_zero():
    for make in (
        lambda o: warmup_cosine_schedule(o, 1, 4),
        lambda o: cosine_over_warmup_schedule(o, 1, 4),
        lambda o: step_decay_schedule(o, 1, warmup_epochs=1),
    ):
        assert rates_of(make, 0.0, steps=3) == [[0.0] * 3]


@pytest.mark.parametrize(
    "settings",
    [
        *({"decay_epochs": value} for value in (0, -1.0, [], [3, 0])),
        *({"decay_rate": value} for value in (0, -0.1, 1.01)),
        {"warmup_epochs": -1},
        {"warmup_lr": -1e-6},
    ],
)
def test_a_step_schedule_that_decays_to_nothing_or_rises_is_refused(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=f"--lr_scheduler_kwargs: got decay_epochs .*{name} ") as refused:
        step_decay_schedule(optimizer(1.0), 1, **settings)
    assert f"{name} {value}" in str(refused.value)
    step_decay_schedule(optimizer(1.0), 1, decay_epochs=0.5, decay_rate=1, warmup_epochs=0, warmup_lr=0)


@pytest.mark.parametrize("make", [warmup_cosine_schedule, cosine_over_warmup_schedule])
def test_a_cosine_that_cannot_be_is_refused_with_what_is_accepted(make):
    for warmup in (-1, 8, 9):
        with pytest.raises(ValueError, match=f"num_warmup_steps: got {warmup}, .* from 0 to below the 8 training"):
            make(optimizer(0.2), warmup, 8)
    names = ("min_lr",) if make is warmup_cosine_schedule else ("min_lr", "warmup_lr")
    for name in names:
        for value in (-0.1, 0.3):
            with pytest.raises(ValueError, match=f"{name}: got {value}, accepted are .* the learning rate, 0.2"):
                make(optimizer(0.1, 0.2), 0, 8, **{name: value})
        make(optimizer(0.1, 0.2), 7, 8, **{name: 0.2})


@pytest.mark.parametrize("settings", [{"alpha": -0.1}, {"beta": -1.0}, {"alpha": float("nan")}])
def test_a_rate_that_would_rise_is_no_inverse_decay(settings):
    with pytest.raises(ValueError, match="alpha, beta: got .* and .*, accepted are numbers from 0"):
        inverse_decay_schedule(optimizer(1.0), **settings)
    inverse_decay_schedule(optimizer(1.0), alpha=0.0, beta=0.0)


# Detectors


def test_the_defaults_of_a_detectors_schedule_are_the_published_ones():
    """YOLOv6's: 0.01 to a hundredth of it, a thousand steps of warm-up or more, biases from 0.1, momentum from 0.8."""
    short, long = DetectionSchedule(10, 100), DetectionSchedule(10, 500)
    assert (short.warmup_steps, long.warmup_steps) == (1000, 1500)
    assert long.learning_rates(0) == (0.0, 0.0, 0.1) and long.momentum_at(0) == 0.8
    assert long.learning_rates(1600)[0] == pytest.approx(half_cosine(2 / 10, 1e-4, 0.01))
    assert long.factor(0) == 1 and long.factor(10) == pytest.approx(0.01)
    assert long.momentum_at(1500) == long.momentum_at(4000) == pytest.approx(0.937)
    assert long.updates(9) == [True] * 9, "a batch of 64 is what an update takes"


def test_the_warm_up_ends_after_its_last_step():
    schedule = DetectionSchedule(10, 100, learning_rate=0.4, warmup_epochs=2.5, least_warmup_steps=10, batch_size=16)
    rates, bias = schedule.learning_rates(250)[:2], schedule.learning_rates(250)[2]
    assert rates == pytest.approx((0.4 * schedule.factor(2),) * 2) and bias == pytest.approx(rates[0])
    assert schedule.learning_rates(251) == pytest.approx((0.4 * schedule.factor(1),) * 3), "a late epoch"
    # A quarter of the way the bias is a quarter of its way down, and the gathered batches a quarter of their way up.
    assert schedule.learning_rates(125)[2] == pytest.approx((0.1 + 0.4 * schedule.factor(1)) / 2)
    assert [schedule.accumulation(step) for step in (0, 100, 125, 250, 251)] == [1, 2, 2, 4, 4]
    without = DetectionSchedule(10, 100, learning_rate=0.4, warmup_epochs=0, batch_size=16)
    assert without.warmup_steps == 0 and without.learning_rates(0) == (0.4,) * 3
    assert without.momentum_at(0) == 0.937 and without.accumulation(0) == 4
    assert without.updates(8) == [False, False, False, True] * 2
    assert DetectionSchedule(10, 100, warmup_epochs=0, batch_size=256).accumulation(5) == 1


def test_the_decay_of_weights_and_averages_grows_with_what_an_update_gathers():
    assert scaled_weight_decay(0.5, 64) == 0.5
    assert scaled_weight_decay(0.5, 128) == 1.0
    assert scaled_weight_decay(0.5, 24) == 0.5 * 24 * 3 / 64  # three batches
    assert scaled_weight_decay(0.5, 8, nominal_batch_size=16) == 0.5
    assert ramped_decay(2000) == pytest.approx(0.9999 * (1 - 1 / math.e))
    assert ramped_decay(10, decay=0.5, ramp=5) == pytest.approx(0.5 * (1 - math.exp(-2)))


def test_norms_weights_and_biases_of_a_detector_are_three_groups():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.factor = nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Parameter(torch.ones(1))
            self.again, self.fixed = self.first, nn.Linear(2, 2).requires_grad_(False)
            self.layer_norm, self.tied = nn.LayerNorm(3), nn.Linear(2, 3, bias=False)
            self.tied.weight = self.first.weight

    model = Network()
    groups = norm_weight_bias_groups(model, 0.3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [[names[id(p)] for p in group["params"]] for group in groups] == [
        ["factor", "norm.weight"],
        ["first.weight", "layer_norm.weight"],
        ["first.bias", "norm.bias", "layer_norm.bias"],
    ]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.3, 0.0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"epochs": 4},
        {"steps_per_epoch": 9},
        {"learning_rate": 0.5},
        {"final_factor": 0.25},
        {"warmup_epochs": 1.5},
        {"least_warmup_steps": 20},
        {"warmup_bias_learning_rate": 0.7},
        {"momentum": 0.6},
        {"warmup_momentum": 0.3},
        {"batch_size": 12},
        {"batch_size": 200},
        {"nominal_batch_size": 160},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()) or "plain",
)
def test_each_setting_of_a_detector_s_schedule_is_that_of_the_formula(options):
    settings = {
        "epochs": 6, "steps_per_epoch": 7, "learning_rate": 0.2, "final_factor": 0.05, "warmup_epochs": 2.5,
        "least_warmup_steps": 3, "warmup_bias_learning_rate": 0.4, "momentum": 0.9, "warmup_momentum": 0.5,
        "batch_size": 24, "nominal_batch_size": 64, **options,
    }  # fmt: skip
    s = SimpleNamespace(**settings)
    schedule = DetectionSchedule(**settings)
    warm = max(round(s.warmup_epochs * s.steps_per_epoch), s.least_warmup_steps)
    ratio = s.nominal_batch_size / s.batch_size

    def cosine(epoch):
        return s.final_factor + (1 - s.final_factor) * (1 + math.cos(math.pi * epoch / s.epochs)) / 2

    updates, last = [], -1
    for step in range(s.epochs * s.steps_per_epoch):
        epoch, share = step // s.steps_per_epoch, min(step / warm, 1)
        if step <= warm:
            top = s.learning_rate * cosine(epoch)
            rates = (share * top, share * top, (1 - share) * s.warmup_bias_learning_rate + share * top)
            gathered = max(1, round((1 - share) + share * ratio))
        else:
            rates, gathered = (s.learning_rate * cosine(epoch - 1),) * 3, max(1, round(ratio))
        assert schedule.learning_rates(step) == pytest.approx(rates)
        assert schedule.momentum_at(step) == pytest.approx((1 - share) * s.warmup_momentum + share * s.momentum)
        assert schedule.accumulation(step) == gathered
        updates.append(step - last >= gathered)
        last = step if updates[-1] else last
    assert schedule.updates(len(updates)) == updates
