"""One rule says which parameters decay, with and without layer decay."""

import math

import pytest
import torch
from torch import nn

from hf_effmodels.training.optim.layer_decay import layer_decay_groups, layer_decay_scales
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


def test_layer_decay_counts_the_blocks_of_vision_transformers():
    names = [
        "vit.embeddings.cls_token",
        "vit.embeddings.patch_embeddings.projection.weight",
        "vit.layers.0.mlp.fc1.bias",
    ]
    names += ["vit.layers.3.attention.q_proj.weight", "vit.layernorm.weight", "classifier.weight"]
    found = layer_decay_scales(names, 0.65)
    assert [round(math.log(found[name], 0.65), 6) for name in names] == [5, 5, 4, 1, 0, 0]
    timm = ["m.cls_token", "m.pos_embed", "m.patch_embed.proj.bias", "m.blocks.1.attn.qkv.weight", "m.fc_norm.weight"]
    found = layer_decay_scales(timm, 0.5)
    assert [round(math.log(found[name], 0.5), 6) for name in timm] == [3, 3, 3, 1, 0]
    # Where the student is a part of what is trained, losses learn as the classifier does.
    found = layer_decay_scales([f"student.{name}" for name in names] + ["losses.ofa.projector.1.3.weight"], 0.65)
    assert found["losses.ofa.projector.1.3.weight"] == 1 and found["student.vit.embeddings.cls_token"] == 0.65**5
    # Through all stages of a Swin; what merges patches goes with the block before.
    swin = ["swin.embeddings.norm.bias", "swin.encoder.layers.0.blocks.1.mlp.fc1.bias"]
    swin += ["swin.encoder.layers.0.downsample.norm.bias", "swin.encoder.layers.1.blocks.0.mlp.fc1.bias"]
    swin += ["swin.encoder.layers.0.blocks.0.mlp.fc1.bias", "swin.layernorm.bias", "classifier.weight"]
    found = layer_decay_scales(swin, 0.5)
    assert [round(math.log(found[name], 0.5), 6) for name in swin] == [4, 2, 2, 1, 3, 0, 0]
    with pytest.raises(ValueError, match="names: got no parameter of a stage"):
        layer_decay_scales(["encoder.layer.1.weight", "head.weight"], 0.5)
    for decay in (0, 1.1, -0.5):
        with pytest.raises(ValueError, match=f"decay: got {decay}, accepted are numbers above 0 and up to 1"):
            layer_decay_scales(names, decay)


def test_layer_decay_counts_stages_and_a_stem_or_so_many_layers_as_is_said():
    names = ["net.stem.conv.weight", "net.stages.0.conv.weight", "net.stages.2.0.norm.bias", "net.head.weight"]
    assert layer_decay_scales(names, 0.5) == dict(zip(names, [1 / 16, 1 / 8, 1 / 2, 1], strict=True))
    assert layer_decay_scales(names, 0.5, num_layers=5) == dict(zip(names, [1 / 64, 1 / 32, 1 / 8, 1], strict=True))
    assert set(layer_decay_scales(names[1:], 1).values()) == {1}  # stages need no stem


def test_layers_that_the_model_numbers_itself_learn_by_their_numbers():
    class Numbered(Network):
        def learning_layers(self):
            return {name: 0 if name.startswith("stem") else 3 for name, _ in self.named_parameters()}

    model = Numbered()
    model.norm.weight.requires_grad_(False)
    groups = layer_decay_groups(model, 0.5, learning_rate=0.8, weight_decay=0.3)
    found = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    # The stem's weight and bias; the stage's two, the scale and the norm's bias.
    assert found == {(0.1, 0.3): 1, (0.1, 0.0): 1, (0.8, 0.0): 4}


def test_parameters_are_grouped_by_as_many_layers_as_is_said_and_frozen_stages_count():
    for frozen, num_layers, stage, stem in ((False, 3, 0.125, 0.0625), (True, None, None, 0.25)):
        model = Network()
        model.stages.requires_grad_(not frozen)
        groups = layer_decay_groups(model, 0.5, learning_rate=1.0, weight_decay=0.3, num_layers=num_layers)
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        found = [rates.get(id(p)) for p in (model.norm.weight, model.stages[0].weight, model.stem.weight)]
        assert found == [1.0, stage, stem]


def test_layer_decay_keeps_to_what_the_model_says():
    model = Network()
    groups = layer_decay_groups(model, 0.5, learning_rate=1.0, weight_decay=0.3)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if decay[id(p)] == 0.3} == DECAYS
    assert {decay[id(p)] for name, p in model.named_parameters() if name not in DECAYS} == {0.0}
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == {
        **{"stem.weight": 0.25, "stem.bias": 0.25, "stages.0.weight": 0.5, "stages.0.bias": 0.5},
        **{"scale": 1.0, "norm.weight": 1.0, "norm.bias": 1.0},
    }
