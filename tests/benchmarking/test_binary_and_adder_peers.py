"""What binary and adder networks are set beside computes what its name says."""

import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.benchmarking import binary_layers, peers
from hf_effmodels.benchmarking.official_adder import ColumnAdder
from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.layers.binary import BinaryConv2d
from hf_effmodels.quantization.packed_binary.layers import PackedConv2d

ADDER = {"hidden_sizes": [8, 16], "depths": [1], "image_size": 32}
ADABIN = {"hidden_sizes": [16, 16, 32], "depths": [1, 1], "image_size": 64}
BIMLP = {"hidden_sizes": [8, 8, 16], "depths": [1, 1], "image_size": 64}


def build(peer, preset, overrides, folded=False):
    torch.manual_seed(0)
    return peers.PEERS[peer].build(preset, folded, overrides)


@pytest.mark.parametrize("peer", ["official-like", "cdist"])
def test_adder_peers_have_the_outputs_and_gradients_of_ours(peer):
    pixels, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    models = [build(name, "addernet-resnet50", ADDER).double().train() for name in ("ours", peer)]
    # Each adder layer of ours stands in the peer as its own layer, or it would be compared with itself.
    ours = {name for name, layer in models[0].named_modules() if isinstance(layer, AdderConv2d)}
    assert ours and all(type(models[1].get_submodule(name)) is ColumnAdder for name in ours)
    results = []
    for model in models:
        output = model(pixels, labels=labels)
        output.loss.backward()
        results.append((output.logits, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_bits_are_the_network_and_its_layers():
    pixels = torch.randn(1, 3, 64, 64)
    ours, bits = (build(peer, "adabin-resnet18", ADABIN, True) for peer in ("ours", "bits"))
    torch.testing.assert_close(bits(pixels).logits, ours(pixels).logits, rtol=1e-4, atol=1e-4)
    assert any(isinstance(module, PackedConv2d) for module in bits.modules())
    real = build("real-resnet", "adabin-resnet18", ADABIN)
    count = sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in real.modules())
    assert count == sum(isinstance(m, BinaryConv2d) for m in ours.modules()) == 4
    with pytest.raises(ValueError, match="real-resnet has the stem of ImageNet's"):
        build("real-resnet", "adabin-resnet20-cifar10", {})


@pytest.mark.parametrize("preset", ["adabin-resnet18", "adabin-resnet20-cifar10", "bimlp-s", "bimlp-m"])
def test_binary_networks_can_be_set_beside_themselves_on_bits(preset):
    peers.check("bits", [preset])
    assert peers.has_peer("bits", preset)


@torch.no_grad()
def test_bits_of_a_bimlp_are_the_network():
    pixels = torch.randn(1, 3, 64, 64)
    ours, bits = (build(peer, "bimlp-s", BIMLP).eval() for peer in ("ours", "bits"))
    torch.testing.assert_close(bits(pixels).logits, ours(pixels).logits, rtol=1e-4, atol=1e-4)
    assert [any(isinstance(m, PackedConv2d) for m in model.modules()) for model in (ours, bits)] == [False, True]


@pytest.mark.parametrize("preset", ["ghostnet-0.5x", "addernet-resnet50", "pangu-pi-15m"])
def test_networks_without_binary_weights_have_none_on_bits(preset):
    with pytest.raises(ValueError, match=f"^--against: bits has no {preset}; it has peers of adabin, bimlp.$"):
        peers.check("bits", [preset])


@torch.no_grad()
def test_layers_have_the_sizes_of_the_network():
    pixels = torch.randn(1, 3, 64, 64)
    shapes = []
    for form in ("layers-float32", "layers-int8", "layers-bits"):
        model = build(form, "adabin-resnet18", ADABIN)
        last = model(pixels)
        assert len(model.calls) == 4
        shapes.append((last.shape, [inputs.shape for _, inputs in model.calls]))
    assert shapes[0] == shapes[1] == shapes[2]
    layer = BinaryConv2d(4, 3, 3, padding=1)
    inputs = torch.rand(1, 4, 6, 6)
    expected = F.conv2d(inputs, layer.weight, padding=1)
    # Steps of 0.05 and 0.02, and of 1 for the output.
    assert (binary_layers.Int8Conv2d(layer)(inputs) - expected).abs().max() < 1
