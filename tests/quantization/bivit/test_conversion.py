"""Transformers that this project did not write: their blocks made binary, saved, loaded, in two stages, packed."""

import json

import pytest
import torch
from transformers import AutoModelForImageClassification, Swinv2Config, Swinv2ForImageClassification

from hf_effmodels.modeling.layers.bivit import ATTENTION, BiVitLinear
from hf_effmodels.quantization import BiVitConfig, convert_to_bivit, pack_binary
from hf_effmodels.quantization.packed_binary.layers import PackedLinear

from ...modeling.test_bivit import NETWORKS, SWIN

PIXELS = torch.linspace(-1.5, 1.5, 2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)


def model_of(network="vit"):
    torch.manual_seed(0)
    return NETWORKS[network]().eval()


@torch.no_grad()
def logits(model):
    return model(PIXELS).logits


def binary(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, BiVitLinear)}


@pytest.mark.parametrize("network", NETWORKS)
def test_any_vision_transformer_comes_back_as_it_was(network, tmp_path):
    model = convert_to_bivit(model_of(network), BiVitConfig(scale="mean", binary_inputs=True))
    expected = logits(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), expected) and not torch.equal(logits(model_of(network)), expected)
    assert loaded.config._attn_implementation == ATTENTION
    layers = binary(loaded)
    assert layers.keys() == binary(model).keys()
    assert all(layer.scale == "mean" and layer.binary_inputs for layer in layers.values())
    assert {layer.precision() for layer in layers.values()} == {"weights 1 bit, inputs 1 bit"}
    loaded.train()(PIXELS).logits.square().sum().backward()
    assert layers[list(layers)[-1]].weight.grad.abs().sum() > 0


def test_scales_that_were_learnt_come_back_and_new_ones_begin_at_mean_magnitudes(tmp_path):
    model = model_of()
    model.save_pretrained(tmp_path / "real")
    convert_to_bivit(model)
    name, layer = list(binary(model).items())[-1]
    torch.testing.assert_close(layer.scaling_factor[:, 0], layer.weight.abs().mean(1))
    onto = AutoModelForImageClassification.from_pretrained(tmp_path / "real", quantization_config=BiVitConfig())
    assert torch.equal(binary(onto)[name].scaling_factor, layer.scaling_factor), "before anything was computed"
    assert torch.equal(logits(onto), logits(model))

    assert layer.precision() == "weights 1 bit, inputs real"
    layer.scaling_factor.data.mul_(3)
    model.save_pretrained(tmp_path / "binary")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "binary")
    assert torch.equal(binary(loaded)[name].scaling_factor, layer.scaling_factor)
    assert torch.equal(logits(loaded), logits(model)) and not torch.equal(logits(loaded), logits(onto))


def test_the_second_stage_makes_binary_what_the_first_left(tmp_path):
    model = convert_to_bivit(model_of(), BiVitConfig(skip=["attention"], attention=False))
    first = set(binary(model))
    assert first and not any("attention" in name for name in first)
    assert model.config._attn_implementation != ATTENTION
    model.save_pretrained(tmp_path / "first")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "first")
    assert set(binary(again)) == first and again.config._attn_implementation != ATTENTION
    mlp = binary(again)[sorted(first)[0]]
    mlp.scaling_factor.data.mul_(2)
    trained = mlp.scaling_factor.detach().clone()
    convert_to_bivit(again)
    assert (
        set(binary(again)) == set(binary(convert_to_bivit(model_of())))
        and again.config._attn_implementation == ATTENTION
    )
    assert torch.equal(binary(again)[sorted(first)[0]].scaling_factor, trained)
    expected = logits(again)
    assert torch.equal(logits(convert_to_bivit(again)), expected), "what is binary already stays"
    again.save_pretrained(tmp_path / "second")
    assert torch.equal(logits(AutoModelForImageClassification.from_pretrained(tmp_path / "second")), logits(again))


def test_a_trained_one_is_packed_and_comes_back_without_its_real_weights(tmp_path):
    model = convert_to_bivit(model_of())
    expected = logits(model)
    pack_binary(model).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "packed_binary"
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert sum(isinstance(module, PackedLinear) for module in loaded.modules()) == 12 and not binary(loaded)
    torch.testing.assert_close(logits(loaded), expected)
    with pytest.raises(ValueError, match="quantised already"):
        convert_to_bivit(loaded)
    with pytest.raises(ValueError, match="packed already"):
        pack_binary(loaded)


def test_what_cannot_be_converted_is_refused():
    for given, message in (
        ({"scale": "row"}, "scale: got 'row', accepted are 'learned', 'mean'"),
        ({"attention": 1}, "attention: got 1, accepted are true and false"),
        ({"binary_inputs": "yes"}, "binary_inputs: got 'yes'"),
        ({"skip": "attention"}, "skip: got 'attention', accepted are lists of names"),
        ({"skip": [1]}, "skip: got .1., accepted are lists of names"),
    ):
        with pytest.raises(ValueError, match=message):
            BiVitConfig(**given)
    with pytest.raises(ValueError, match="attention: Swinv2ForImageClassification does not have"):
        convert_to_bivit(Swinv2ForImageClassification(Swinv2Config(**SWIN)))
    with pytest.raises(ValueError, match="skip: no module of the model has 'atention'"):
        convert_to_bivit(model_of(), BiVitConfig(skip=["atention"]))
    broken = model_of()
    broken.classifier.weight.data[0, 1] = float("inf")
    with pytest.raises(ValueError, match="^model: ViTForImageClassification has 1 broken weights: classifier.weight"):
        convert_to_bivit(broken)
    for config, message in (
        (BiVitConfig(scale="mean"), "scale: got 'mean', but the model has binary layers with 'learned'"),
        (BiVitConfig(binary_inputs=True), "binary_inputs: got True, but the model has"),
        (BiVitConfig(attention=False), "attention: got False, but the model's attention is binary already"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_to_bivit(convert_to_bivit(model_of()), config)
    quantised = model_of()
    quantised.config.quantization_config = {"quant_method": "bitnet158"}
    with pytest.raises(ValueError, match="model: it is quantised already"):
        convert_to_bivit(quantised)
