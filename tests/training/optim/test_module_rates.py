"""Parts of a network learn at rates of their own."""

import pytest
import torch
from torch import nn

from hf_effmodels.training.optim.module_rates import rate_factors, scale_rates

NAMES = ["student.stem.weight", "student.classifier.1.weight", "student.stages.10.weight", "losses.ofa.1.bias"]


def test_the_path_of_the_most_names_counts_and_names_are_whole():
    found = rate_factors(NAMES, {"losses.ofa.1": 0.5, "losses": 3, "classifier": 10, "stages.10": 2})
    assert found == dict(zip(NAMES, [1, 10, 2, 0.5], strict=True))
    with pytest.raises(ValueError, match="'stages.1' is of no parameter; nearest: .*stages"):
        rate_factors(NAMES, {"stages.1": 2})
    with pytest.raises(ValueError, match="'stem.1' is of no parameter"):
        rate_factors(NAMES, {"classifier": 10, "stem.1": 2})


@pytest.mark.parametrize("first", [0, 1])
def test_a_factor_of_a_groups_first_parameters_is_that_of_no_others(first):
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.3}], lr=0.1)
    scale_rates(optimizer, {parameters[first]: 10.0, parameters[2]: 0.5})
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = [1.0, 0.1] if first == 0 else [0.1, 1.0]
    assert [rates[id(p)] for p in parameters] == pytest.approx([*expected, 0.15])


def test_groups_are_divided_and_each_part_steps_at_its_rate():
    network = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("a", "b", "c")})
    decays = [p for name, p in network.named_parameters() if name.endswith("weight")]
    others = [p for name, p in network.named_parameters() if name.endswith("bias")]
    groups = [{"params": decays, "weight_decay": 0.5}, {"params": others, "lr": 0.2, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    factors = rate_factors([name for name, _ in network.named_parameters()], {"b": 10, "c.bias": 0.1})
    scale_rates(optimizer, {parameter: factors[name] for name, parameter in network.named_parameters()})
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    rates = {"a.weight": 0.1, "a.bias": 0.2, "b.weight": 1, "b.bias": 2, "c.weight": 0.1, "c.bias": 0.02}
    for name, parameter in network.named_parameters():
        decay = 0.5 if name.endswith("weight") else 0.0
        torch.testing.assert_close(parameter.detach(), before[name] - rates[name] * (1 + decay * before[name]))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
