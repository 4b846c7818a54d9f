"""Layers of few bits, as `--bitnet` and `--bivit` ask for them, and the tokens that a loss is the mean over."""

import types

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, ResNetConfig, ResNetForImageClassification

from hf_effmodels.training.run import binary_blocks
from hf_effmodels.training.run.added_losses import predicted_tokens_of, samples_of
from hf_effmodels.training.run.binary_blocks import BinaryBlockArguments, make_blocks_binary
from hf_effmodels.training.run.ternary import TernaryArguments, add_warm_start, make_ternary

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}


def kinds(model):
    return {name: type(module).__name__ for name, module in model.named_modules()}


def test_linear_layers_become_ternary_where_that_is_asked_for():
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    before = kinds(model)
    make_ternary(model, TernaryArguments())
    assert kinds(model) == before
    make_ternary(model, TernaryArguments(bitnet="median"))
    assert kinds(model)["model.layers.0.mlp.down_proj"] == "BitLinear" and kinds(model)["lm_head"] == "Linear"
    assert model.config.quantization_config["scale"] == "median"
    with pytest.raises(ValueError, match="^--bitnet: got mean, but for "):
        make_ternary(model, TernaryArguments(bitnet="mean"))
    with pytest.raises(ValueError, match="^--bitnet_warmup_steps: got 3, but --bitnet is none.$"):
        make_ternary(model, TernaryArguments(bitnet_warmup_steps=3))
    added = []
    trainer = types.SimpleNamespace(add_callback=added.append)
    add_warm_start(trainer, TernaryArguments(bitnet="mean"))
    assert not added
    add_warm_start(trainer, TernaryArguments(bitnet="mean", bitnet_warmup_steps=4))
    assert [(type(callback).__name__, callback.steps) for callback in added] == [("WarmStart", 4)]


def test_blocks_become_binary_as_they_are_asked_to(monkeypatch):
    given = []
    monkeypatch.setattr(binary_blocks, "convert_to_bivit", lambda model, config: given.append(config))
    make_blocks_binary("model", BinaryBlockArguments())
    assert not given
    make_blocks_binary("model", BinaryBlockArguments(bivit="layers", bivit_skip=["mlp"], bivit_binary_inputs=True))
    make_blocks_binary("model", BinaryBlockArguments(bivit="all"))
    assert [(config.attention, config.binary_inputs, config.skip) for config in given] == [
        (False, True, ["mlp"]), (True, False, given[1].skip)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("skip: nothing is left", r"^--bivit_skip: got \['mlp'\], but for skip: nothing is left$"),
        (
            "the model: accepted is attention=False",
            "^--bivit: got all, but for the model: accepted is --bivit layers$",
        ),
    ],
)
def test_what_blocks_are_refused_for_is_told_by_its_option(said, told, monkeypatch):
    def refuse(model, config):
        raise ValueError(said)

    monkeypatch.setattr(binary_blocks, "convert_to_bivit", refuse)
    with pytest.raises(ValueError, match=told):
        make_blocks_binary("model", BinaryBlockArguments(bivit="all", bivit_skip=["mlp"]))
    monkeypatch.undo()
    network = ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    with pytest.raises(ValueError, match="^--bivit: got layers, but for "):
        make_blocks_binary(network, BinaryBlockArguments(bivit="layers"))


def test_the_first_token_of_a_sequence_is_predicted_by_nothing():
    labels = torch.tensor([[1, 2, -100, 3], [-100, -100, 4, 5], [1, -100, -100, -100]])
    assert predicted_tokens_of({"labels": labels}) == 4 and samples_of({"labels": labels}) == 3
