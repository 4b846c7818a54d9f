"""One rule says which parameters decay, with and without layer decay."""

import pytest
import torch
from torch import nn

from hf_effmodels.training.optim.layer_decay import layer_decay_groups
from hf_effmodels.training.optim.weight_decay import decaying_parameters


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.stages = nn.ModuleList([nn.Linear(4, 4)])
        self.scale = nn.Parameter(torch.ones(1, 4))
        self.norm = nn.LayerNorm(4)

    def no_weight_decay(self):
        return {"scale", "stages.0.weight"}


DECAYS = {"stem.weight"}


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_matrices_decay_unless_the_network_or_a_part_of_it_says_otherwise(prefix):
    model = nn.ModuleDict({"backbone": Network()}) if prefix else Network()
    assert decaying_parameters(model) == {prefix + name for name in DECAYS}


def test_layer_decay_keeps_to_what_the_model_says():
    model = Network()
    groups = layer_decay_groups(model, 0.5, learning_rate=1.0, weight_decay=0.3)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if decay[id(p)] == 0.3} == DECAYS
    assert {decay[id(p)] for name, p in model.named_parameters() if name not in DECAYS} == {0.0}
