"""Learning as its formulas say, written out with plain autograd, and what each window and each method is given."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.quantization import CbqConfig, quantize
from hf_effmodels.quantization.cbq import quantization
from hf_effmodels.quantization.cbq.capture import Call
from hf_effmodels.quantization.cbq.learning import LearnedBlock, LearnedLayer, learn_window
from hf_effmodels.quantization.cbq.preprocessing import largest_inputs, scaled
from hf_effmodels.quantization.cbq.reconstruction import windows

from ..conftest import SIZES

GROUP = 8


class Mixed(nn.Module):
    """A block of two layers and what goes on beside them."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 8, bias=False), nn.Linear(8, 16)

    def forward(self, states, shift):
        return states + self.down(F.silu(self.up(states) + shift))


def straight(value, rounded):
    return rounded.detach() + (value - value.detach())  # exactly the rounded one


def cut(integers, bits):
    """Half of the gradient passes on the border."""
    low = -float(2 ** (bits - 1))
    return torch.minimum(torch.maximum(integers, torch.tensor(low)), torch.tensor(-low - 1))


class Reference:
    """A weight that is learned: floor(w / s) + h(V), s = s0 exp(l), V = A1 A2 (+ V0), h the stretched sigmoid."""

    def __init__(self, layer: LearnedLayer, config: CbqConfig):
        self.weight, self.config = layer.weight.clone(), config
        groups = self.weight.unflatten(1, (-1, GROUP))
        self.step = 2 * groups.abs().amax(-1, keepdim=True) / (2**config.bits - 1)
        share = (groups / self.step).frac()
        share = torch.where(share < 0, share + 1, share).flatten(1).clamp(1e-4, 1 - 1e-4)
        inner = (share + 0.1) / 1.2
        self.start = (inner / (1 - inner)).log() if config.rounding_init == "fraction" else torch.zeros(())
        self.a1 = None if layer.a1 is None else layer.a1.detach().clone().requires_grad_()
        self.a2 = torch.zeros_like(layer.a2).requires_grad_()
        self.log_step = torch.zeros_like(self.step).requires_grad_(config.learn_steps)

    def delta(self):
        v = self.a2 if self.a1 is None else self.a1 @ self.a2
        return ((v + self.start).sigmoid() * 1.2 - 0.1).clamp(0, 1)

    def value(self, hard: bool):
        delta = self.delta()
        if hard:
            delta = straight(delta, (delta >= 0.5).float())
        step = self.step * self.log_step.exp()
        ratio = self.weight.unflatten(1, (-1, GROUP)) / step
        integers = straight(ratio, ratio.floor()) + delta.unflatten(1, (-1, GROUP))
        return (cut(integers, self.config.bits) * step).flatten(1)

    def undecided(self, beta: float):
        return (1 - (2 * self.delta() - 1).abs() ** beta).sum()


def rounded_inputs(x, bits):
    if bits is None:
        return x
    step = 2 * x.detach().abs().amax(-1, keepdim=True) / (2**bits - 1)
    return cut(straight(x / step, (x / step).round()), bits) * step


def learn_by_the_formulas(blocks, layers, hidden, shifts, targets, config, seed):
    def loss_of(number, hard):
        x = hidden[number]
        for block, own in zip(blocks, layers, strict=True):
            inner = F.linear(rounded_inputs(x, config.activation_bits), own["up"].value(hard)) + shifts[number]
            inner = rounded_inputs(F.silu(inner), config.activation_bits)
            x = x + F.linear(inner, own["down"].value(hard), block.down.bias.detach())
        total = 0
        for target in targets[number]:
            divergence = F.kl_div(x.log_softmax(-1), target.softmax(-1), reduction="none").sum(-1).mean()
            total += (x - target).square().sum(-1).mean() + config.kld_weight * divergence
        return total / len(targets[number])

    every = [layer for own in layers for layer in own.values()]
    rounding = [each for layer in every for each in (layer.a1, layer.a2) if each is not None]
    groups = [{"params": rounding, "lr": config.rounding_lr}]
    if config.learn_steps:
        groups.append({"params": [layer.log_step for layer in every], "lr": config.step_lr})
    adam, order = torch.optim.Adam(groups), torch.Generator().manual_seed(seed)
    first = loss_of(0, True).item()
    count = sum(layer.weight.numel() for layer in every)
    numbers = [
        number for _ in range(config.epochs) for number in torch.randperm(len(hidden), generator=order).tolist()
    ]
    for step, number in enumerate(numbers):
        share = step / (len(numbers) - 1)
        loss = loss_of(number, config.rounding == "hard")
        if share >= 0.2:  # beta falls from 20 to 2
            beta = 2 + 18 * (1 - (share - 0.2) / 0.8)
            loss = loss + config.rounding_weight * first / count * sum(layer.undecided(beta) for layer in every)
        adam.zero_grad()
        loss.backward()
        if config.rounding == "hard":
            rates = (config.rounding_lr, config.step_lr)
            for group, rate in zip(adam.param_groups, rates, strict=False):
                group["lr"] = rate * (1 - share)
        adam.step()
    return first, loss_of(0, True).item()


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 3},
        {"rank": None, "rounding": "soft", "rounding_init": "zero", "learn_steps": False, "rounding_weight": 3.0},
        {
            "rank": 12,
            "rounding": "soft",
            "activation_bits": 8,
            "kld_weight": 4.0,
            "bits": 2,
            "rounding_weight": 0.0,
            "learn_steps": False,
        },
        {"rank": 2, "activation_bits": 4, "rounding_weight": 2.0, "bits": 4},
    ],
    ids=["hard", "soft", "with inputs", "all"],
)
def test_a_window_is_learned_as_its_formulas_say(options):
    settings = {"bits": 3, "epochs": 3, "rounding_lr": 0.02, "step_lr": 0.005, **options}
    config, generator = CbqConfig(group_size=GROUP, **settings), torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    blocks = [Mixed(), Mixed()]
    learned = [
        {
            name: LearnedLayer(getattr(block, name).weight.detach().clone(), config, generator)
            for name in ("up", "down")
        }
        for block in blocks
    ]
    written = [{name: Reference(layer, config) for name, layer in own.items()} for own in learned]
    hidden, shifts = [torch.randn(2, 5, 16) for _ in range(3)], [torch.randn(8) for _ in range(3)]
    targets = [[torch.randn(2, 5, 16), torch.randn(2, 5, 16)] for _ in range(3)]
    window = [
        LearnedBlock(block, {"down.bias": block.down.bias.detach()}, own)
        for block, own in zip(blocks, learned, strict=True)
    ]
    calls = [[Call((shift,), {})] * 2 for shift in shifts]
    losses = learn_window(window, hidden, calls, targets, config, seed=5)
    expected = learn_by_the_formulas(blocks, written, hidden, shifts, targets, config, seed=5)
    assert (losses["loss_before"], losses["loss_after"]) == pytest.approx(expected, rel=1e-4)
    for own, theirs in zip(learned, written, strict=True):
        for name, layer in own.items():
            assert layer.a2.abs().max() > 0.01, "something was learned"
            torch.testing.assert_close(layer.delta(), theirs[name].delta().detach(), rtol=1e-3, atol=1e-4)
            step = theirs[name].log_step.detach()[..., 0]
            torch.testing.assert_close(layer.log_step.detach(), step, rtol=1e-3, atol=1e-5)
            assert bool(step.any()) is config.learn_steps


def outputs_of_blocks(model, ids):
    """What enters the first block, and what each gives."""
    found = []
    handles = [model.model.layers[0].register_forward_pre_hook(lambda m, args: found.append(args[0]))]
    handles += [layer.register_forward_hook(lambda m, args, out: found.append(out)) for layer in model.model.layers]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("target", ["homologous", "accumulated", "both"])
def test_a_window_comes_near_to_what_its_target_says(dense, samples, monkeypatch, target):
    """Three windows of one block each, of which nothing is learned: each is rounded, and the next one sees that."""
    given = []

    def nothing(blocks, hidden, calls, targets, config, seed):
        given.append((hidden, targets, seed, [layer.a1 for layer in blocks[0].layers.values()]))
        return {"loss_before": 1.0, "loss_after": 1.0}

    monkeypatch.setattr(quantization, "learn_window", nothing)
    whole, config = dense(torch.float32), {"bits": 4, "group_size": 16, "cfp": False, "batch_size": 8, "seed": 3}
    config = CbqConfig(**config, target=target, window=1, overlap=0)
    exact = outputs_of_blocks(whole, samples)
    rounded = quantize(dense(torch.float32), [samples], config).model
    entered = outputs_of_blocks(rounded, samples)
    rope = whole.model.rotary_emb(exact[0], torch.arange(samples.shape[1])[None])
    assert [seed for *_, seed, _ in given] == [3, 4, 5]
    for number, (hidden, targets, _, a1) in enumerate(given):
        torch.testing.assert_close(torch.cat(hidden), entered[number], rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            of_window = whole.model.layers[number](entered[number], position_embeddings=rope)
        expected = {"homologous": [of_window], "accumulated": [exact[number + 1]]}
        expected["both"] = [of_window, exact[number + 1]]
        found = [torch.cat(parts) for parts in zip(*targets, strict=True)]
        for mine, theirs in zip(found, expected[target], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
        # Drawn from the seed and the number of the block.
        generator = torch.Generator().manual_seed(3 * 1_000_003 + number)
        drawn = torch.randn(a1[0].shape, generator=generator) / math.sqrt(a1[0].shape[1])
        torch.testing.assert_close(a1[0], drawn)


def test_methods_without_learning_go_block_by_block(dense, samples):
    """However wide the windows are that learning would take."""
    settings = {"bits": 4, "group_size": 16, "window": 3, "overlap": 2}
    for method in ("rtn", "gptq"):
        rows = quantize(dense(), [samples], CbqConfig(**settings, method=method)).report["blocks"]
        assert [row["blocks"] for row in rows] == [[0, 1], [1, 2], [2, 3]]
    assert windows(3, 3, 2) == [(0, 3)]


def test_the_model_is_measured_before_as_it_is_and_after_with_its_inputs_quantised(dense, held_out):
    with torch.no_grad():
        before = dense()(held_out, labels=held_out).loss.exp().item()
    report = quantize(
        dense(), None, CbqConfig(method="rtn", bits=8, group_size=32, activation_bits=4), evaluation=[held_out]
    ).report
    assert report["perplexity_before"] == pytest.approx(before, rel=1e-5)
    with torch.no_grad():
        weights_alone = quantize(dense(), None, CbqConfig(method="rtn", bits=8, group_size=32)).model
        alone = weights_alone(held_out, labels=held_out).loss.exp().item()
    assert abs(report["perplexity_after"] - alone) > 3 * abs(alone - before), "four bits of inputs cost more than all"


def test_tokens_that_the_model_has_not_are_told_of_either_text(dense, samples):
    to_nearest = CbqConfig(method="rtn", group_size=32)
    with pytest.raises(ValueError, match="^calibration: got token 18"):
        quantize(dense(), [samples + 90], CbqConfig(group_size=32))
    for wrong, said in (
        ([samples + 90], "got token 18"),
        ([], "there are no batches, the perplexity needs some"),
        ([{"inputs_embeds": torch.zeros(1, 2, 64)}], "got a batch of inputs_embeds, accepted are those with labels"),
    ):
        with pytest.raises(ValueError, match=f"^evaluation: {said}"):
            quantize(dense(), None, to_nearest, evaluation=wrong)


def test_gptq_is_given_its_damping_and_the_inputs_that_quantised_layers_make(dense, samples, monkeypatch):
    given, own = [], quantization.gptq

    def told(weight, hessian, *options):
        given.append((tuple(weight.shape), hessian, options))
        return own(weight, hessian, *options)

    monkeypatch.setattr(quantization, "gptq", told)
    config = CbqConfig(method="gptq", bits=2, group_size=16, damping=0.07, symmetric=False)
    model = quantize(dense(torch.float32), [samples], config).model
    assert {options for *_, options in given} == {(2, 16, False, 0.07)} and len(given) == 3 * 7
    seen = []
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(samples)
    (hessian,) = [hessian for shape, hessian, _ in given[:7] if shape == (64, 96)]
    torch.testing.assert_close(hessian, seen[0].T @ seen[0] / len(seen[0]), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_fold_that_changes_the_block_by_a_thousandth_is_not_made(caplog):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.proj = nn.LayerNorm(8), nn.Linear(8, 8)
            self.norm.weight[3] = 40.0

        def forward(self, x):
            hidden = self.norm(x)
            return self.proj(hidden) + 1e-2 * hidden

    torch.manual_seed(0)
    block, states, call = Beside(), torch.randn(1, 32, 8), Call((), {})
    state = {name: value.clone() for name, value in block.state_dict().items()}
    largest = largest_inputs(block, ["proj"], [states], [call])
    new, channels = scaled(block, state, ["proj"], largest, states, call, CbqConfig())
    assert channels == {} and new is state and "cannot be scaled" in caplog.text


def test_no_rank_is_above_the_inputs_of_a_weight():
    layer = LearnedLayer(torch.randn(32, 8), CbqConfig(group_size=8, rank=20), torch.Generator())
    assert layer.a1.shape == (32, 8) and layer.a2.shape == (8, 8)


def test_gptq_is_given_inputs_as_they_are_rounded_where_they_are(dense, samples, monkeypatch):
    """Of the first layers: what the norm gives, each token on a grid of its own."""
    given, own = [], quantization.gptq
    monkeypatch.setattr(
        quantization, "gptq", lambda weight, hessian, *how: given.append(hessian) or own(weight, hessian, *how)
    )
    config = CbqConfig(method="gptq", bits=4, group_size=16, activation_bits=4)
    quantize(dense(torch.float32), [samples], config)
    model = dense(torch.float32).model
    with torch.no_grad():
        x = model.layers[0].input_layernorm(model.embed_tokens(samples)).flatten(0, 1)
    step = 2 * x.abs().amax(-1, keepdim=True) / 15
    rounded = (x / step).round().clamp(-8, 7) * step
    torch.testing.assert_close(given[0], rounded.T @ rounded / len(rounded), rtol=1e-3, atol=1e-3)


def test_windows_that_share_a_block_enter_where_the_blocks_before_are_rounded(dense, samples, monkeypatch):
    """Two windows of two blocks, of which nothing is learned: the second begins at the rounded first block, comes near
    to what two whole blocks make of that and to what the whole model says, and has met its first block before."""
    given, entered = [], []

    def nothing(blocks, hidden, calls, targets, config, seed):
        given.append((blocks, hidden, targets))
        return {"loss_before": 1.0, "loss_after": 1.0}

    largest = quantization.largest_inputs
    monkeypatch.setattr(quantization, "learn_window", nothing)
    monkeypatch.setattr(
        quantization,
        "largest_inputs",
        lambda module, layers, states, calls: entered.append(states) or largest(module, layers, states, calls),
    )
    # Steps are of float32, inputs of so many values that none is moved by much.
    settings = {"bits": 4, "group_size": 16, "activation_bits": 8, "lambda1": 1e6, "batch_size": 8}
    whole = dense(torch.float32)
    exact = outputs_of_blocks(whole, samples)
    result = quantize(dense(torch.float32), [samples], CbqConfig(**settings, window=2, overlap=1))
    rope = whole.model.rotary_emb(exact[0], torch.arange(samples.shape[1])[None])

    def through(states, *numbers):
        with torch.no_grad():
            for number in numbers:
                states = whole.model.layers[number](states, position_embeddings=rope)
        return states

    rounded = {}

    def seen(module, args):
        rounded.setdefault("first", args[0])

    handle = result.model.model.layers[1].register_forward_pre_hook(seen)
    with torch.no_grad(), result.in_use():
        result.model(samples)
    handle.remove()
    near = {"rtol": 1e-3, "atol": 1e-3}
    (first, second) = given
    assert second[0][0] is first[0][1], "the block that is shared has been learned on already"
    torch.testing.assert_close(torch.cat(first[1]), exact[0], **near)
    torch.testing.assert_close(torch.cat(second[1]), rounded["first"], **near)
    for (_, hidden, targets), numbers, end in ((first, (0, 1), exact[2]), (second, (1, 2), exact[3])):
        on_rounded, on_whole = (torch.cat(parts) for parts in zip(*targets, strict=True))
        torch.testing.assert_close(on_rounded, through(torch.cat(hidden), *numbers), **near)
        torch.testing.assert_close(on_whole, end, **near)
    # Each block is met once, with what leaves the one before in its window.
    expected = [exact[0], through(exact[0], 0), through(rounded["first"], 1)]
    for states, theirs in zip(entered, expected, strict=True):
        torch.testing.assert_close(torch.cat(states), theirs, **near)


def test_a_model_in_training_is_quantised_as_in_evaluation_and_stays_in_training(samples, held_out):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.5)).train()
    config = CbqConfig(method="gptq", bits=4, group_size=16)
    expected = quantize(copy.deepcopy(model).eval(), [samples], config, evaluation=[held_out])
    found = quantize(model, [samples], config, evaluation=[held_out])
    assert found.model.training and not expected.model.training
    weights = zip(found.model.parameters(), expected.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)
    for name in ("perplexity_before", "perplexity_after"):
        assert found.report[name] == pytest.approx(expected.report[name], rel=1e-6)
