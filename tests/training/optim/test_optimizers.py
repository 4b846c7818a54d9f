import copy
import io
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_effmodels.training.optim.adamp import AdamP
from hf_effmodels.training.optim.optimizers import (
    OPTIMIZERS,
    Lamb,
    RMSpropTF,
    optimizer_class_and_settings,
    read_optimizer_settings,
)
from hf_effmodels.training.optim.schedules import step_decay_schedule
from hf_effmodels.training.run.values import acts, check_goes_with

RNG = np.random.default_rng(0)
START = [RNG.standard_normal((4, 3)), RNG.standard_normal(5)]
GRADS = [[RNG.standard_normal((4, 3)), RNG.standard_normal(5)] for _ in range(6)]


def run(make, grads=GRADS, start=START):
    params = [nn.Parameter(torch.tensor(value)) for value in start]
    optimizer = make(params)
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = torch.tensor(grad)
        optimizer.step()
    return [param.detach().numpy() for param in params]


def lamb_by_hand(lr, beta1, beta2, eps, decays, correct=True, clip=None, trust_clip=False, always=False):
    """Algorithm 2 of the paper, tensor by tensor in numpy."""
    weights = [w.copy() for w in START]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t, grads in enumerate(GRADS, start=1):
        if clip is not None:
            norm = np.sqrt(sum((g**2).sum() for g in grads))
            grads = [g / max(norm / clip, 1.0) for g in grads]
        for i, g in enumerate(grads):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            c1, c2 = (1 - beta1**t, 1 - beta2**t) if correct else (1, 1)
            update = (m[i] / c1) / (np.sqrt(v[i] / c2) + eps) + decays[i] * weights[i]
            if decays[i] or always:
                norms = np.linalg.norm(weights[i]), np.linalg.norm(update)
                ratio = norms[0] / norms[1] if min(norms) > 0 else 1.0
                update = update * (min(ratio, 1.0) if trust_clip else ratio)
            weights[i] = weights[i] - lr * update
    return weights


@pytest.mark.parametrize(
    "options, by_hand",
    [
        ({}, {}),
        ({"bias_correction": False}, {"correct": False}),
        ({"max_grad_norm": 0.5}, {"clip": 0.5}),
        ({"trust_clip": True}, {"trust_clip": True}),
        ({"always_adapt": True}, {"always": True}),
    ],
)
def test_lamb_is_the_papers_algorithm(options, by_hand):
    def make(params):
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}]
        return Lamb(groups, lr=0.05, betas=(0.8, 0.95), eps=1e-4, **{"max_grad_norm": None, **options})

    expected = lamb_by_hand(0.05, 0.8, 0.95, 1e-4, [0.1, 0.0], **by_hand)
    for got, want in zip(run(make), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)  # the moments' weights are rounded as Python floats are


def test_lamb_moves_weights_that_are_zero():
    (moved,) = run(lambda params: Lamb(params, lr=0.1, weight_decay=0.1), grads=[[np.ones(3)]], start=[np.zeros(3)])
    np.testing.assert_allclose(moved, -0.1, rtol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_tensorflows(momentum):
    lr, alpha, eps, decay = 0.05, 0.9, 1e-3, 0.01
    weights, v, b = [w.copy() for w in START], [np.ones_like(w) for w in START], [np.zeros_like(w) for w in START]
    for grads in GRADS:
        for i, g in enumerate(grads):
            g = g + decay * weights[i]
            v[i] = v[i] + (1 - alpha) * (g**2 - v[i])
            b[i] = momentum * b[i] + lr * g / np.sqrt(v[i] + eps)
            weights[i] = weights[i] - b[i]
    got = run(lambda params: RMSpropTF(params, lr, alpha, eps, decay, momentum))
    for g, w in zip(got, weights, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-10)


@pytest.mark.parametrize("make", [Lamb, AdamP, lambda params: RMSpropTF(params, momentum=0.9)])
def test_a_saved_optimizer_goes_on_bit_for_bit(make):
    params = [nn.Parameter(torch.tensor(value)) for value in START]
    optimizer = make(params)

    def step(params, optimizer, grads):
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.tensor(grad)
        optimizer.step()

    for grads in GRADS[:3]:
        step(params, optimizer, grads)
    resumed = copy.deepcopy(params)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    other = make(resumed)
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))  # noqa: TID251
    for grads in GRADS[3:]:
        step(params, optimizer, grads)
        step(resumed, other, grads)
    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))


@pytest.mark.parametrize(
    "make, settings, message",
    [
        *((Lamb, {name: -0.1}, f"{name}: got -0.1, accepted are numbers from 0") for name in ("lr", "eps")),
        (Lamb, {"weight_decay": -0.1}, "weight_decay: got -0.1"),
        (Lamb, {"max_grad_norm": -1.0}, "max_grad_norm: got -1.0"),
        (Lamb, {"betas": (0.9, 1.0)}, r"betas: got \(0.9, 1.0\), accepted are numbers from 0 to below 1"),
        (Lamb, {"betas": (-0.1, 0.9)}, r"betas: got \(-0.1"),
        *((RMSpropTF, {name: -1}, f"{name}: got -1") for name in ("lr", "alpha", "eps", "weight_decay", "momentum")),
        *((AdamP, {name: -1}, f"{name}: got -1, acc") for name in ("lr", "eps", "weight_decay", "delta")),
        (AdamP, {"lr": float("nan")}, "lr: got nan"),
        (AdamP, {"wd_ratio": 1.1}, "wd_ratio 1.1, accepted are numbers from 0 to 1"),
        (AdamP, {"wd_ratio": -0.1}, "wd_ratio -0.1"),
        (AdamP, {"betas": (0.9, 1.0)}, r"betas \(0.9, 1.0\)"),
    ],
)
def test_wrong_settings_are_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.zeros(1))], **settings)
    make([nn.Parameter(torch.zeros(1))], **{name: (0.0, 0.0) if name == "betas" else 0.0 for name in settings})


OPTIMIZERS_OF_OURS = pytest.mark.parametrize("make", [Lamb, AdamP, RMSpropTF])


@OPTIMIZERS_OF_OURS
def test_a_step_gives_back_the_loss_of_its_closure_and_moves_what_has_a_gradient(make):
    weight, other, alone = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    optimizer = make([{"params": [weight, other]}, {"params": [alone]}], lr=0.1)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert (weight < 1).all() and (other == 1).all() and (alone == 1).all()
    assert optimizer.step() is None
    weight.grad, other.grad = torch.ones(2, 2), torch.ones(2, 2).to_sparse()
    with pytest.raises(ValueError, match="sparse gradients are not supported"):
        optimizer.step()
    weight.grad = other.grad = None
    before = weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)


def test_what_an_optimizer_is_not_told_is_what_its_source_has():
    """timm's LAMB, TensorFlow's RMSprop with timm's numbers, AdamP's official code: a step of one weight by hand."""
    weight, gradient = np.array([[3.0, 4.0]]), np.array([[6.0, 8.0]])  # of the length 5 and 10
    (lamb,) = run(Lamb, grads=[[gradient]], start=[weight])
    update = 1 / (1 + 1e-6 / (gradient / 10)) + 0.01 * weight  # of a clipped gradient, the first moments without bias
    np.testing.assert_allclose(lamb, weight - 1e-3 * update * 5 / np.linalg.norm(update), rtol=1e-12)
    (rms,) = run(RMSpropTF, grads=[[gradient]], start=[weight])
    np.testing.assert_allclose(rms, weight - 1e-2 * gradient / np.sqrt(0.9 + 0.1 * gradient**2 + 1e-10), rtol=1e-12)
    # Upright on the weight, the gradient tells that the length is free; the update is upright, too.
    (adamp,) = run(AdamP, grads=[[np.array([[8.0, -6.0]])]], start=[weight])
    update = np.array([[1.0, -1.0]])  # its signs, for a start
    update -= weight * (weight * update).sum() / 25
    np.testing.assert_allclose(adamp, weight - 1e-3 * update, rtol=1e-7)
    assert AdamP([nn.Parameter(torch.zeros(1))]).defaults["wd_ratio"] == 0.1
    # Of second steps the decay rates show.
    for make, after in ((Lamb, _second_of_adam), (AdamP, _second_of_adam)):
        options = {"max_grad_norm": None, "weight_decay": 0.0, "eps": 0.0} if make is Lamb else {"eps": 0.0}
        first, second = np.array([2.0]), np.array([-1.0])
        (moved,) = run(
            lambda p, make=make, o=options: make(p, **o), grads=[[first], [second]], start=[np.array([7.0])]
        )
        np.testing.assert_allclose(moved, 7.0 - 1e-3 * (1 + after(first, second)), rtol=1e-10)


def _second_of_adam(first, second):
    m, v = 0.9 * 0.1 * first + 0.1 * second, 0.999 * 0.001 * first**2 + 0.001 * second**2
    return m / (1 - 0.9**2) / np.sqrt(v / (1 - 0.999**2))


def _asked(optim, text=None):
    return SimpleNamespace(
        optim=optim, optim_args=text, learning_rate=0.3, adam_beta1=0.7, adam_beta2=0.8, adam_epsilon=1e-3
    )


@pytest.mark.parametrize(
    "optim, kind, settings",
    [
        ("lamb", Lamb, {"betas": (0.7, 0.8), "eps": 1e-3, "max_grad_norm": None}),
        ("adamp", AdamP, {"betas": (0.7, 0.8), "eps": 1e-3}),
        ("rmsprop_tf", RMSpropTF, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_an_optimizer_takes_the_training_arguments_that_are_its_own(optim, kind, settings):
    assert optimizer_class_and_settings(_asked(optim)) == (kind, {"lr": 0.3, **settings})
    made, changed = optimizer_class_and_settings(_asked(optim, "weight_decay=0.5"))
    assert made is kind and changed == {"lr": 0.3, **settings, "weight_decay": 0.5}
    for name in ("params", "lr", "momentums"):
        with pytest.raises(ValueError, match=f"--optim_args: {optim} takes no '{name}', accepted are .*weight_decay"):
            optimizer_class_and_settings(_asked(optim, f"{name}=1"))
    assert optimizer_class_and_settings(_asked("adamw_torch")) is None


def test_settings_of_optimizers_are_read_by_their_kind():
    text = " momentum = 0.9, nesterov=true,steps=-3,eps=1e-3,foreach=null,name=x"
    read = read_optimizer_settings(text)
    assert read == {"momentum": 0.9, "nesterov": True, "steps": -3, "eps": 1e-3, "foreach": None, "name": "x"}
    assert type(read["steps"]) is int
    assert read_optimizer_settings(None) == read_optimizer_settings("") == {}
    for wrong in ("momentum", "=0.9", "momentum=", "a=1,b", "a=1,", "a=1,,b=2"):
        with pytest.raises(ValueError, match=f"--optim_args: got '{wrong}', accepted is such as 'momentum=0.9"):
            read_optimizer_settings(wrong)


def test_step_decay_is_timms_schedule():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.064)
    schedule = step_decay_schedule(optimizer, 10, decay_epochs=2.4, decay_rate=0.973, warmup_epochs=3, warmup_lr=1e-6)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    by_epoch = np.array(rates).reshape(10, 10)
    assert (by_epoch == by_epoch[:, :1]).all()  # constant within an epoch
    warmup = [1e-6 + epoch * (0.064 - 1e-6) / 3 for epoch in range(3)]
    after = [0.064 * 0.973 ** int(epoch // 2.4) for epoch in range(3, 10)]
    np.testing.assert_allclose(by_epoch[:, 0], warmup + after, rtol=1e-12)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    [factor] = step_decay_schedule(optimizer, 2, decay_epochs=[3, 5, 6], decay_rate=0.1, warmup_epochs=0).lr_lambdas
    np.testing.assert_allclose([factor(2 * epoch) for epoch in range(8)], [1, 1, 1, 0.1, 0.1, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("delta, nesterov", [(0.0, False), (0.0, True), (1.5, False), (8.0, True)])
def test_adamp_is_the_papers_algorithm(delta, nesterov):
    """delta 0 is Adam with decoupled decay; of 1.5 the layer as a whole is projected here, of 8 its rows."""
    lr, beta1, beta2, eps, decay, ratio = 0.05, 0.8, 0.95, 1e-3, 0.1, 0.3
    weights, projected = [w.copy() for w in START], []
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t, grads in enumerate(GRADS, start=1):
        for i, g in enumerate(grads):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            first = beta1 * m[i] + (1 - beta1) * g if nesterov else m[i]
            update, factor = first / (np.sqrt(v[i] / (1 - beta2**t)) + eps), 1.0
            for rows in (4, 1) if i == 0 else ():
                w, h, u = (x.reshape(rows, -1) for x in (weights[i], g, update))
                cosines = np.abs((w * h).sum(1)) / np.linalg.norm(w, axis=1) / np.linalg.norm(h, axis=1)
                if cosines.max() < delta / np.sqrt(w.shape[1]):
                    unit = w / (np.linalg.norm(w, axis=1, keepdims=True) + eps)
                    update, factor = (u - unit * (unit * u).sum(1, keepdims=True)).reshape(update.shape), ratio
                    projected.append(rows)
                    break
            weights[i] = weights[i] * (1 - lr * decay * factor) - lr / (1 - beta1**t) * update
    assert set(projected) == {0.0: set(), 1.5: {1, 4}, 8.0: {4}}[delta]
    options = {"eps": eps, "weight_decay": decay, "delta": delta, "wd_ratio": ratio, "nesterov": nesterov}
    for got, want in zip(run(lambda p: AdamP(p, lr, (beta1, beta2), **options)), weights, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    "optim, text, found",
    [
        ("sgd", "momentum=0.5,nesterov=false", {"momentum": 0.5, "nesterov": False}),
        ("lamb", "eps=0.25,max_grad_norm=2", {"eps": 0.25, "max_grad_norm": 2}),
        ("adamp", "eps=0.5", {"eps": 0.5}),
        ("rmsprop_tf", "momentum=0.5,alpha=0.75", {"momentum": 0.5, "alpha": 0.75}),
    ],
)
def test_what_is_asked_for_goes_before_what_an_optimizer_has_otherwise(optim, text, found):
    kind, settings = optimizer_class_and_settings(_asked(optim, text))
    assert settings.items() >= found.items() and settings["lr"] == 0.3
    made = kind([nn.Parameter(torch.zeros(2))], **settings)
    assert made.param_groups[0].items() >= found.items()


def test_lamb_counts_the_steps_of_each_weight_by_itself():
    """Of two weights in one group the second has gradients from the third step on: it moves as one that is alone."""
    torch.manual_seed(0)
    options = {"lr": 0.1, "weight_decay": 0.05, "max_grad_norm": None}
    together = [nn.Parameter(torch.randn(4, dtype=torch.float64)) for _ in range(2)]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    both, single = Lamb(together, **options), [Lamb([weight], **options) for weight in alone]
    for step in range(5):
        both.zero_grad()
        for number, (weight, other) in enumerate(zip(together, alone, strict=True)):
            if number == 1 and step < 2:
                continue
            weight.grad = torch.randn(4, dtype=torch.float64)
            other.grad = weight.grad.clone()
            single[number].step()
        both.step()
    for weight, other in zip(together, alone, strict=True):
        torch.testing.assert_close(weight, other)


@pytest.mark.parametrize("weight, gradient", [(2.0, 0.0), (0.0, 0.0), (0.0, 3.0)])
def test_lamb_has_a_ratio_of_one_where_a_norm_is_nought(weight, gradient):
    parameter = nn.Parameter(torch.full((3,), weight))
    parameter.grad = torch.full((3,), gradient)
    Lamb(
        [parameter], lr=0.1, weight_decay=0.0, always_adapt=True, max_grad_norm=None, eps=0.0 if gradient else 1e-6
    ).step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), weight - 0.1 * np.sign(gradient)))


@pytest.mark.parametrize(
    "make, groups",
    [
        (
            Lamb,
            [
                {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.2, "trust_clip": True},
                {"lr": 0.3, "betas": (0.8, 0.6), "eps": 0.01, "weight_decay": 0.0, "always_adapt": True},
                {"lr": 0.2, "betas": (0.9, 0.9), "weight_decay": 0.1, "bias_correction": False},
            ],
        ),
        (
            RMSpropTF,
            [
                {"lr": 0.1, "alpha": 0.5, "eps": 0.1, "weight_decay": 0.2, "momentum": 0.0},
                {"lr": 0.3, "alpha": 0.8, "eps": 0.01, "weight_decay": 0.0, "momentum": 0.7},
                {"lr": 0.2, "alpha": 0.7, "weight_decay": 0.1, "momentum": 0.4},
            ],
        ),
    ],
    ids=["lamb", "rmsprop_tf"],
)
def test_each_group_moves_by_its_own_settings_as_if_it_were_alone(make, groups):
    torch.manual_seed(1)
    starts = [torch.randn(4, 2, dtype=torch.float64) for _ in groups]
    together, alone = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    common = {"max_grad_norm": None} if make is Lamb else {}
    both = make([{"params": [p], **own} for p, own in zip(together, groups, strict=True)], **common)
    singles = [make([p], **own, **common) for p, own in zip(alone, groups, strict=True)]
    for _ in range(3):
        for first, second in zip(together, alone, strict=True):
            first.grad = torch.randn(4, 2, dtype=torch.float64)
            second.grad = first.grad.clone()
        both.step()
        for single in singles:
            single.step()
    for first, second, start in zip(together, alone, starts, strict=True):
        torch.testing.assert_close(first, second)
        assert not torch.equal(first, start)


@pytest.mark.parametrize("limit, share", [(10.0, 1.0), (5.0, 1.0), (2.5, 0.5), (0.0, 0.0)])
def test_lamb_clips_by_the_norm_of_all_groups_together(limit, share):
    """Gradients of 3 and 4 have a joint norm of 5; beside an epsilon of 1 it shows how large they are."""
    weights = [nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)]
    for weight, gradient in zip(weights, (3.0, -4.0), strict=True):
        weight.grad = torch.full((1,), gradient, dtype=torch.float64)
    optimizer = Lamb([{"params": [w]} for w in weights], lr=0.1, eps=1.0, weight_decay=0.0, max_grad_norm=limit)
    optimizer.step()
    for weight, gradient in zip(weights, (3.0, -4.0), strict=True):
        moved = 0.1 * share * gradient / (abs(share * gradient) + 1)
        assert weight.item() == pytest.approx(1 - moved)
        assert weight.grad.item() == gradient, "gradients are not changed"


@pytest.mark.parametrize("name", ["adam_beta1", "adam_beta2", "adam_epsilon"])
def test_settings_of_adam_act_beside_the_optimizers_that_take_them(name):
    """By what each one is made with; lion, which is not installed here, has no epsilon (eq. 1 of its paper)."""
    field = next(field for field in fields(TrainingArguments) if field.name == name)
    for optim in (*OPTIMIZERS, "adamw_torch", "adagrad", "rmsprop", "adafactor"):
        made = []
        for number in (0.5, 0.25):
            asked = _asked(optim)
            setattr(asked, name, number)
            made.append(optimizer_class_and_settings(asked) or _of_transformers(asked))
        assert acts(field, {"optim": optim}) == (made[0] != made[1]), optim
        check_goes_with(field, {name: 0.123, "optim": optim})  # none of them is refused
    assert acts(field, {"optim": "lion_32bit"}) == (name != "adam_epsilon")


def _of_transformers(asked):
    args = TrainingArguments(
        output_dir="unused", optim=asked.optim, learning_rate=asked.learning_rate, **{
            name: getattr(asked, name) for name in ("adam_beta1", "adam_beta2", "adam_epsilon")
        }
    )  # fmt: skip
    return Trainer.get_optimizer_cls_and_kwargs(args)
