"""What widths cost, how long they are searched, and what a network with fewer of them has of the whole."""

import random

import pytest
import torch

from hf_effmodels.compression.pruning.vision_widths import (
    check_target,
    complexity,
    prune_channels,
    prune_part,
    search_widths,
)

from .test_class_importance import build


def cost(neurons, heads) -> float:
    """From 100 with nothing pruned to 50."""
    return 100 * (1 - (sum(neurons) + sum(heads)) / (2 * len(neurons)))


def test_a_search_is_given_up_after_so_many_draws():
    """None is exactly of the target; the ends are looked at before, and again for the message."""
    asked = []
    with pytest.raises(
        ValueError, match="^target: got 75, and no draw is within 0% of it; .* it is 100, .* allows 50"
    ):
        search_widths(
            None, lambda *ratios: asked.append(ratios) or cost(*ratios), 75.0, depth=2, tolerance=0.0, attempts=7
        )
    ends = [([0.0] * 2, [0.0] * 2), ([0.5] * 2, [0.5] * 2)]
    assert asked[:2] == asked[-2:] == ends and len(asked) == 2 + 7 + 2


@pytest.mark.parametrize("target, reached", [(102.0, True), (102.1, False), (49.1, True), (48.9, False), (75.0, True)])
def test_a_target_may_lie_beyond_the_ends_by_its_tolerance(target, reached):
    if reached:
        check_target(cost, target, 2, 0.5, 0.02)
    else:
        with pytest.raises(ValueError, match=f"^target: got {target:g}, and no draw is within 2% of it"):
            check_target(cost, target, 2, 0.5, 0.02)


def test_a_classifier_costs_by_its_classes():
    many, few = (complexity([0.25] * 3, hidden_size=12, heads=2, num_labels=labels) for labels in (1000, 10))
    assert many.parameters - few.parameters == pytest.approx(990 * (12 + 1) / 1e6)
    assert many.flops - few.flops == pytest.approx(990 * 2 * 12 / 1e9) and many.macs == many.flops / 2


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_a_network_with_fewer_widths_has_weights_of_its_own_and_the_mode_of_the_whole(training):
    model = build().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for smaller in (
        prune_part(model, [[0, 2], [1]], [[0, 4], [1, 2, 3]]),
        prune_channels(model, [0, 1, 5]),
        prune_part(model, [[1]], [[0, 7]], part=1),
    ):
        assert {module.training for module in smaller.modules()} == {training} and type(smaller) is type(model)
        for value in smaller.state_dict().values():
            value.add_(1)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_left_of_a_network_is_counted_in_whole_heads_and_neurons():
    """Of three heads a share of 0.6 is one, of 24 neurons 0.7 are 16; the other block is whole."""
    found = complexity([0.3, 0.0], [0.4, 0.0], hidden_size=12, heads=3, mlp_ratio=2, tokens=5, num_labels=7)
    parameters, flops = 12 * 3 * 16 * 16 + 12 + 5 * 12 + 12, 2 * 3 * 12 * 224 * 224
    for heads, neurons in ((1, 16), (3, 24)):
        norms, attention, mlp = 2 * 2 * 12, 4 * (4 * heads) * 12 + 12, 2 * 12 * neurons + neurons + 12
        parameters += norms + attention + mlp
        projections, products = 4 * 2 * 5 * 12 * 4 * heads, 2 * 2 * 5 * 5 * 4 * heads
        flops += projections + products + 2 * 2 * 5 * 12 * neurons
    assert found.parameters == pytest.approx((parameters + 2 * 12 + 12 * 7 + 7) / 1e6)
    assert found.flops == pytest.approx((flops + 2 * 12 * 7) / 1e9)


def test_draws_follow_from_the_seed_and_reach_up_to_the_bound():
    """Which ones are near enough to the target is a share of it."""

    def drawn(**options):
        asked = []
        settings = {"depth": 2, "bound": 0.9, "tolerance": 0.5, "samples": 30} | options
        search_widths(lambda *ratios: asked.append(ratios) or 0.0, cost, 60.0, **settings)
        return asked

    first = drawn(seed=4)
    assert first == drawn(seed=4) != drawn(seed=5)
    ratios = [ratio for neurons, heads in first for ratio in (*neurons, *heads)]
    assert 0.8 < max(ratios) <= 0.9 and min(ratios) < 0.1
    assert max(abs(cost(*ratios) - 60) for ratios in first) > 1
    near = drawn(seed=4, tolerance=0.1)
    assert max(abs(cost(*ratios) - 60) for ratios in near) <= 6


@pytest.mark.parametrize("samples", [1, 3])
def test_so_many_widths_are_looked_at_and_of_equal_ones_the_first_is_taken(samples):
    asked = []

    def evaluate(neurons, heads):
        asked.append((neurons, heads))
        return 1.0

    found = search_widths(evaluate, lambda *_: 1.0, 1.0, depth=2, samples=samples, seed=5, attempts=20)
    draw = random.Random(5)
    ratios = [[draw.uniform(0, 0.5) for _ in range(4)] for _ in range(samples)]
    assert asked == [(drawn[:2], drawn[2:]) for drawn in ratios] and found == asked[0]


@torch.no_grad()
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("part", [0, 1])
def test_the_network_of_fewer_heads_and_neurons_is_the_whole_without_the_others(part, qkv_bias):
    """Set to zero by hand: what the other heads and neurons add to the stream."""
    model = build(qkv_bias=qkv_bias)
    layers, sizes = model.devit.parts[part].layers, model.config.parts[part]
    heads = [[count - 1] for count in sizes["num_heads"]]
    neurons = [[1, count - 2] for count in sizes["intermediate_sizes"]]
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    pruned = prune_part(model, heads, neurons, part=part)(pixels).logits
    assert not torch.allclose(pruned, model(pixels).logits)
    for layer, of_heads, of_neurons in zip(layers, heads, neurons, strict=True):
        width, (head,) = sizes["head_dim"], of_heads
        layer.attention.proj.weight[:, : head * width] = 0
        layer.mlp.fc2.weight[:, [n for n in range(layer.mlp.fc2.in_features) if n not in of_neurons]] = 0
    torch.testing.assert_close(pruned, model(pixels).logits, rtol=1e-12, atol=1e-12)
