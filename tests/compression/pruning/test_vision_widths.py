"""What widths cost, how long they are searched, and what a network with fewer of them has of the whole."""

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
