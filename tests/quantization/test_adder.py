"""AdderNet's quantisation: groups, the lossless clamp, integers."""

from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

from hf_effmodels.kernels import native_library
from hf_effmodels.modeling.addernet.configuration_addernet import AdderNetConfig
from hf_effmodels.modeling.addernet.modeling_addernet import AdderNetForImageClassification
from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.quantization import AdderQuantConfig, quantize_adder
from hf_effmodels.quantization.adder.algorithm import activation_range, cluster, quantize_activations, quantize_weights
from hf_effmodels.quantization.adder.layer import (
    QuantizedAdderConv2d,
    distances_of_bytes,
    pack_nibbles,
    quantized_adder_conv2d,
    unpack_nibbles,
)

from ..modeling.tiny.addernet import TINY


@pytest.mark.parametrize("n_groups", [1, 2, 3, 4])
def test_groups_are_the_best_of_all(n_groups):
    values = torch.rand(9, generator=torch.Generator().manual_seed(n_groups)).double()
    ordered = values.sort().values

    def cost(parts):
        return sum(((part - part.mean()) ** 2).sum().item() for part in parts)

    best = min(
        cost([ordered[a:b] for a, b in zip((0, *cuts), (*cuts, 9), strict=True)])
        for cuts in combinations(range(1, 9), n_groups - 1)
    )
    groups = cluster(values, n_groups)
    assert cost([values[groups == g] for g in range(n_groups)]) == pytest.approx(best)
    largest = [values[groups == g].max() for g in range(n_groups)]
    assert largest == sorted(largest), "numbered by ascending values"
    assert torch.equal(groups, cluster(values, n_groups))


def test_the_range_of_activations_is_that_of_their_upper_quantile():
    batch = torch.arange(1000.0).flip(0)
    index = int((round(1000 * 0.99) - 1) * 0.99)
    assert activation_range([batch, 0 * batch], 0.99) == index == 979
    assert activation_range([0 * batch]) == 1e-3
    for wrong, message in (({"keep_ratio": 0.0}, "keep_ratio: got 0.0"), ({"batches": []}, "there are no batches")):
        with pytest.raises(ValueError, match=message):
            activation_range(**{"batches": [batch], **wrong})
    with pytest.raises(ValueError, match="not finite"):
        activation_range([batch / 0])
    with pytest.raises(ValueError, match="calibration: got a batch without activations"):
        activation_range([batch, batch[:0]])
    assert activation_range([-batch], 1.0) == 999  # of magnitudes, and with a ratio of 1 the largest
    assert activation_range([batch[-1:]], 0.01) == 1e-3  # one value has one quantile


@pytest.mark.parametrize("exported", [False, True], ids=["computed", "exported"])
@pytest.mark.parametrize("bits_weight, bits_activation", [(8, 8), (6, 6), (5, 5), (4, 4), (4, 6), (4, 8), (8, 5)])
def test_outputs_are_those_of_the_values_of_the_levels(bits_weight, bits_activation, exported, monkeypatch):
    """Also those of an exported program, which computes every group for all filters."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exported)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3, 3, 3, generator=generator).double() * torch.tensor([3.0, 1, 0.2, 3, 1, 0.2]).view(
        6, 1, 1, 1
    )
    inputs = torch.rand(2, 3, 7, 7, generator=generator).double()
    adder = quantize_weights(weight, 0.9, bits_weight, n_groups=3)
    largest = weight.abs().flatten(1).amax(1)
    assert adder.scale.tolist() == [min(float(largest[adder.group == g].max()), 0.9) for g in range(3)]
    output = quantized_adder_conv2d(
        inputs, adder.levels, adder.group, adder.scale, adder.bias, bits_activation, 2, 1, bits_weight
    )
    assert int(adder.levels.min()) >= -(2 ** (bits_weight - 1)) and int(adder.levels.max()) < 2 ** (bits_weight - 1)
    for f in range(6):
        s = adder.scale[adder.group[f]]
        w = adder.levels[f].double() * 2 * s / (2**bits_weight - 1)
        step = s / (2**bits_activation - 1)
        x = (inputs / step).round().clamp(0, 2**bits_activation - 1) * step
        patches = F.unfold(x, 3, padding=1, stride=2)
        expected = -(patches - w.flatten()[None, :, None]).abs().sum(1) + adder.bias[f]
        torch.testing.assert_close(output[:, f].flatten(1), expected)


def test_what_cannot_be_quantised_is_named():
    weight = torch.randn(4, 3, 3, 3)
    for wrong, message in (
        ({"bits": 9}, "bits: got 9, accepted are whole numbers from 2 to 8"),
        ({"bits": 1}, "bits: got 1"),
        ({"n_groups": 5}, "n_groups: got 5, accepted are whole numbers from 1 to the 4 filters"),
        ({"weight": weight / 0}, "weight: got values that are not finite"),
        ({"weight": weight.clone().index_fill(0, torch.tensor(2), float("nan"))}, "weight: got values that are not"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_weights(**{"weight": weight, "act_range": 1.0, "n_groups": 2, **wrong})
    adder = quantize_weights(weight, 1.0, n_groups=2)
    with pytest.raises(ValueError, match="inputs: got -1, accepted are finite numbers from 0"):
        quantized_adder_conv2d(-torch.ones(1, 3, 5, 5), adder.levels, adder.group, adder.scale, adder.bias, 8, 1, 1)


# --------------------------------------------------------------------------------------------------- whole models


@torch.no_grad()
def build(**overrides) -> AdderNetForImageClassification:
    """A tiny AdderNet whose batch norms have seen data."""
    torch.manual_seed(0)
    model = AdderNetForImageClassification(AdderNetConfig(**{**TINY["addernet"], "num_labels": 3, **overrides}))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(BATCHES[0])
    return model.eval()


BATCHES = list(torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


@torch.no_grad()
@pytest.mark.parametrize("bits, activation_bits", [(8, None), (5, None), (4, None), (4, 6)])
def test_a_quantised_network_is_that_of_the_formulas_layer_by_layer(bits, activation_bits):
    model, real = build(), build()
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda m, a, name=name: seen.setdefault(name, []).append(a[0]))
        for name, module in real.named_modules()
        if isinstance(module, AdderConv2d)
    ]
    for batch in BATCHES:
        real(batch)
    for handle in handles:
        handle.remove()
    quantized = quantize_adder(
        model, BATCHES, bits=bits, activation_bits=activation_bits, n_groups=2, keep_ratio=0.99, reestimate=False
    )
    assert quantized is model and set(model.config.quantization_config.layers) == set(seen)
    for name, inputs in seen.items():
        adder = quantize_weights(real.get_submodule(name).weight, activation_range(inputs, 0.99), bits, n_groups=2)
        layer = model.get_submodule(name)
        assert torch.equal(layer.levels(), adder.levels)
        tables = (adder.levels, adder.group, adder.scale.double(), adder.bias.double())
        expected = quantized_adder_conv2d(
            inputs[0].double(), *tables, activation_bits or bits, layer.stride, layer.padding, bits
        )
        torch.testing.assert_close(layer(inputs[0]).double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_integers_in_bytes_are_equal_to_the_loops_to_the_last_bit(bits, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(11, 5, 3, 3, generator=generator)
    inputs = torch.rand(2, 5, 9, 7, generator=generator)
    adder = quantize_weights(weight, 0.9, bits, n_groups=3)
    tables = (inputs, adder.levels, adder.group, adder.scale, adder.bias, bits, 2, 1)
    assert native_library.available()
    assert torch.equal(distances_of_bytes(*tables), quantized_adder_conv2d(*tables))
    assert len(adder.levels.unique()) > 2


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("folds", [False, True])
def test_integers_are_stored_and_loaded_with_the_same_outputs(bits, folds, tmp_path):
    model = quantize_adder(build(), BATCHES, bits=bits, n_groups=3)
    expected = model(BATCHES[0]).logits
    if folds:
        torch.testing.assert_close(model.reparameterize()(BATCHES[0]).logits, expected, rtol=1e-3, atol=1e-3)
        expected = model(BATCHES[0]).logits
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for name in model.config.quantization_config.layers:
        layer = model.get_submodule(name)
        integers = state[f"{name}.integers"]
        assert integers.element_size() == 1 and integers.numel() == layer.weight.numel() // (2 if bits == 4 else 1)
        assert f"{name}.weight" not in state
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(again(BATCHES[0]).logits, expected)
    assert (again.config.quantization_config.bits, again.config.reparameterized) == (bits, folds)


@torch.no_grad()
def test_the_batch_norms_are_estimated_again_with_the_quantised_layers():
    plain, model = (quantize_adder(build(), BATCHES, n_groups=2, reestimate=value) for value in (False, True))
    name = "addernet.stages.0.blocks.0.adder1"
    before, after = (m.get_submodule(name).norm.running_mean for m in (plain, model))
    plain.addernet.stem.train()  # its batch norm sees the batches, too
    means = [plain.get_submodule(name).conv(plain.addernet.stem(batch)).mean((0, 2, 3)) for batch in BATCHES]
    torch.testing.assert_close(after, means[-1])  # momentum 1: those of the last batch
    assert not torch.allclose(before, after)
    assert not any(module.training for module in model.modules())


@torch.no_grad()
def test_batches_may_be_arguments_and_layers_take_half_precision():
    plain = quantize_adder(build(), BATCHES, n_groups=2)
    named = [{"pixel_values": batch, "labels": torch.zeros(4, dtype=torch.long)} for batch in BATCHES]
    model = quantize_adder(build(), named, n_groups=2)
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in plain.state_dict().items())
    seen = []
    model = build()
    model.register_forward_pre_hook(lambda m, args, given: seen.append({*given}), with_kwargs=True)
    quantize_adder(model, [{**batch, "output_hidden_states": False} for batch in named], n_groups=2)
    assert seen == 6 * [{"pixel_values", "output_hidden_states"}], "all but the answers, in both passes"
    layer = model.get_submodule(model.config.quantization_config.layers[0])
    inputs = torch.rand(1, layer.shape[1], 6, 6)
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        found = layer(inputs.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), layer(inputs.to(dtype).float()), rtol=tolerance, atol=tolerance)


def test_few_batches_for_the_batch_norms_are_warned_of(caplog):
    """At a momentum of 0.1 n batches leave 0.9ⁿ of the statistics: 0.9¹ is 90 %, 0.9²² less than 10 %."""
    quantize_adder(build(), BATCHES[:1], n_groups=2)
    assert "after 1 of them 90 % of the batch norms' statistics are still those of the real layers" in caplog.text
    caplog.clear()
    quantize_adder(build(), BATCHES[:1], n_groups=2, reestimate=False)
    small = [BATCHES[0][:1, :, :4, :4]]  # its last maps are of one number, which has no variance
    with pytest.raises(ValueError, match="accepted are batches of several images, or reestimate=False"):
        quantize_adder(build(), small, n_groups=2)
    quantize_adder(build(), small, n_groups=2, reestimate=False)
    quantize_adder(build(), 22 * BATCHES[:1], n_groups=2)
    assert not caplog.text


@pytest.mark.parametrize("before, count, share", [(1, 1, "50 %"), (18, 2, "90 %"), (4, 3, "57 %"), (0, 3, None)])
def test_norms_without_a_momentum_weigh_all_batches_that_they_have_ever_seen_alike(before, count, share, caplog):
    """Of (before + count) of them so many are from before."""
    model = build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None
            module.num_batches_tracked.fill_(before)
    quantize_adder(model, BATCHES[:count], n_groups=2)
    assert (f"after {count} of them {share} of the batch norms' statistics" in caplog.text) == (share is not None)
    assert share is not None or not caplog.text


def test_any_module_is_quantised_also_one_without_a_configuration():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.ReLU(), AdderConv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 1)).eval()
    real, inputs = model[1], BATCHES[0][:, :, :8, :8]
    quantize_adder(model, [inputs], n_groups=2, bits=4, activation_bits=6, keep_ratio=1.0)
    assert isinstance(model[1], QuantizedAdderConv2d) and not hasattr(model, "config")
    assert not hasattr(model, "hf_quantizer")
    expected = quantize_weights(real.weight.detach(), activation_range([inputs.relu()], 1.0), 4, n_groups=2)
    assert torch.equal(model[1].levels(), expected.levels) and torch.equal(model[1].group_scale, expected.scale)
    assert torch.equal(model[1].clamp_bias, expected.bias) and torch.equal(model[1].group.long(), expected.group)
    assert (model[1].bits, model[1].activation_bits, model[1].padding) == (4, 6, real.padding)
    # Nothing of it learns, the convolutions that stay real neither.
    assert [*model.parameters()] and not any(parameter.requires_grad for parameter in model.parameters())


def test_quantised_networks_say_what_they_cannot_do(tmp_path):
    model = quantize_adder(build(), BATCHES, n_groups=2)
    with pytest.raises(ValueError, match="quantised already"):
        quantize_adder(model, BATCHES)
    model.save_pretrained(tmp_path / "whole")
    for refused in (model, AutoModelForImageClassification.from_pretrained(tmp_path / "whole")):
        with pytest.raises(RuntimeError, match="^AdderNet.* integer weights, which cannot be trained"):
            refused.train()
        assert not any(module.training for module in refused.modules())
        with pytest.raises(RuntimeError, match="QuantizedAdderConv2d has integer weights, which no gradient flows"):
            refused(BATCHES[0].clone().requires_grad_()).logits.sum().backward()
    layer = model.get_submodule(model.config.quantization_config.layers[0])
    with pytest.raises(RuntimeError, match="^QuantizedAdderConv2d has integer weights, which cannot be trained"):
        layer.train()
    assert not layer.training and layer.eval() is layer
    assert AdderQuantConfig(n_groups=256, keep_ratio=1, bits=2, activation_bits=8).activation_bits == 8
    broken = build()
    name = next(n for n, m in broken.named_modules() if isinstance(m, AdderConv2d))
    broken.get_submodule(name).weight.data[0, 0, 0, 0] = float("nan")
    for value in ("nan", "inf"):
        with pytest.raises(ValueError, match=f"inputs: got {value}, accepted are finite numbers from 0"):
            layer(torch.full((1, 8, 8, 8), float(value)))
    with pytest.raises(ValueError, match="inputs: got -1"):
        layer(-torch.ones(1, 8, 8, 8))
    for wrong, message in (
        ({"batches": []}, "batches: there are none"),
        ({"batches": iter(BATCHES)}, "batches: got list_iterator, which cannot be read twice"),
        ({"batches": [BATCHES[0], BATCHES[1][:1]]}, "batches: norm sees one value of each channel of batch 1"),
        ({"batches": [BATCHES[0][:0]]}, "batches: batch 0 has no images"),
        ({"batches": [[BATCHES[0], None]]}, "batches: got a list, accepted are images"),
        ({"bits": 9}, "bits: got 9"),
        ({"activation_bits": 1}, "activation_bits: got 1"),
        ({"n_groups": 0}, "n_groups: got 0"),
        ({"n_groups": 5}, "n_groups: got 5, but .* has 4 filters"),
        ({"keep_ratio": 1.5}, "keep_ratio: got 1.5"),
        ({"keep_ratio": "all"}, "keep_ratio: got 'all'"),
        ({"keep_ratio": True}, "keep_ratio: got True, accepted are numbers above 0, up to 1"),
        ({"n_groups": 257}, "n_groups: got 257, accepted are whole numbers from 1 to 256"),
        ({"bits": 8.0}, "bits: got 8.0, accepted are whole numbers from 2 to 8"),
        ({"model": broken}, f"model: the weights of {name} are not finite"),
        ({"skip": None}, "skip: got None, accepted are lists of names"),
        ({"skip": ["nothing"]}, "skip: the model has no 'nothing'"),
        ({"skip": "addernet"}, "no adder layers to quantise"),
        ({"model": build().train()}, "training mode"),
        ({"model": torch.nn.Sequential(AdderConv2d(3, 4, 3)).eval()}, "inputs of 0: got -.*behind a ReLU"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_adder(**{"model": build(), "batches": BATCHES, "n_groups": 2, **wrong})
    with pytest.raises(ValueError, match="inputs: got torch.int64, accepted are floating point"):
        layer(torch.ones(1, 8, 8, 8, dtype=torch.int64))
    some = quantize_adder(build(), BATCHES, n_groups=2, skip=["addernet.stages.0"])
    assert all(name.startswith("addernet.stages.1") for name in some.config.quantization_config.layers)
    some.config.quantization_config.layers.append("addernet.stem")
    some.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no adder layer 'addernet.stem'"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    some.config.quantization_config.layers.clear()
    some.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quantization_config: layers names none"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("count", [1, 8, 13])
def test_nibbles_come_back(count):
    levels = torch.arange(3 * count).view(3, count).remainder(16).sub(8).to(torch.int8)
    packed = pack_nibbles(levels)
    assert packed.shape == (3, -(-count // 2)) and torch.equal(unpack_nibbles(packed, count), levels)


@torch.no_grad()
@pytest.mark.parametrize("bits, inputs_bits", [(8, None), (4, None), (4, 6), (8, 5)])
def test_programs_of_quantised_layers_have_operators_of_any_runtime(bits, inputs_bits):
    layer = AdderConv2d(5, 9, 3, stride=2, padding=1, bias=True)
    adder = quantize_weights(layer.weight, 0.9, bits, n_groups=3)
    layer = QuantizedAdderConv2d(layer, AdderQuantConfig(bits=bits, activation_bits=inputs_bits, n_groups=3)).take(
        adder
    )
    inputs = torch.rand(2, 5, 9, 7)
    program = torch.export.export(layer, (inputs,))
    names = [str(node.target) for node in program.graph.nodes]
    assert not [name for name in names if any(part in name for part in ("hf_effmodels", "shift", "nonzero"))]
    torch.testing.assert_close(program.module()(inputs), layer(inputs), rtol=1e-5, atol=1e-4)


def test_the_first_of_two_levels_has_the_low_bits_of_its_byte():
    """Level l is l + 8; a last one that is alone has none above it."""
    levels = torch.tensor([[-8, 7, 1, -3, 0]], dtype=torch.int8)
    assert pack_nibbles(levels).tolist() == [[0 + 16 * 15, 9 + 16 * 5, 8]]
    assert unpack_nibbles(torch.tensor([[0xF0, 0x59, 0x08]], dtype=torch.uint8), 5).tolist() == levels.tolist()


def test_activations_are_rounded_half_to_even_up_to_their_scale():
    """Three bits: seven steps."""
    values = torch.tensor([0.0, 0.5, 1.5, 2.5, 6.4, 7.0, 9.0, 100.0])
    assert quantize_activations(values, 7.0, 3).tolist() == [0, 0, 2, 2, 6, 7, 7, 7]
    assert quantize_activations(values, torch.tensor(14.0), 3).tolist() == [0, 0, 1, 1, 3, 4, 4, 7]


def test_what_a_filter_loses_by_clamping_is_its_bias_and_a_group_has_the_range_of_its_largest():
    weight = torch.tensor([[3.0, -0.5], [-2.0, 1.0], [0.1, -0.1], [0.2, 0.0]]).view(4, 2, 1, 1)
    found = quantize_weights(weight, 1.5, bits=3, n_groups=2)
    assert found.group.tolist() == [1, 1, 0, 0] and found.scale.tolist() == pytest.approx([0.2, 1.5])
    assert found.bias.tolist() == [-1.5, -0.5, 0, 0]
    assert found.clamped.flatten().tolist() == pytest.approx([1.5, -0.5, -1.5, 1, 0.1, -0.1, 0.2, 0])
    # Seven steps over twice the range: 3.5 is rounded to 4 and cut to 3; -1.17 to -1, 2.33 to 2; 1.75 to 2.
    assert found.levels.flatten().tolist() == [3, -1, -4, 2, 2, -2, 3, 0]
    whole = quantize_weights(torch.zeros(2, 1, 1, 1), 1.0, n_groups=1)
    assert whole.scale.tolist() == [0] and not whole.levels.any()
