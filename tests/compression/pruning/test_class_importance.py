"""What each class loses with a unit is what the network without it says."""

import pytest
import torch

from hf_effmodels.compression.pruning.class_importance import class_divergences
from hf_effmodels.compression.pruning.hsic import head_scores, neuron_scores, score_part
from hf_effmodels.compression.pruning.vision_widths import part_macs, prune_channels, prune_part
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.modeling.devit.modeling_devit import DeViTForImageClassification

PARTS = [
    {"hidden_size": 12, "head_dim": 4, "num_heads": [3, 2], "intermediate_sizes": [5, 4]},
    part_sizes(8, 1, 2, 1),
]


def build(**options) -> DeViTForImageClassification:
    torch.manual_seed(6)
    config = DeViTConfig(image_size=16, patch_size=8, initializer_range=0.4, num_labels=3, parts=PARTS, **options)
    return DeViTForImageClassification(config).double().eval()


def by_hand(whole, without, pixels, labels) -> list[float]:
    p, q = (model(pixels).logits.softmax(-1) for model in (whole, without))
    lost = (p * (p / q).log()).sum(-1)
    return [float(lost[labels == number].mean()) for number in range(3)]


@torch.no_grad()
def test_heads_and_neurons_are_worth_what_the_network_without_them_loses():
    model, labels = build(), torch.tensor([0, 1, 2, 1, 0])
    pixels = torch.randn(5, 3, 16, 16).double()
    heads = class_divergences(model, pixels, labels, units="heads", batch=2)
    neurons = class_divergences(model, pixels, labels, units="neurons", together=3)
    assert [tuple(of.shape) for of in (*heads, *neurons)] == [(3, 3), (3, 2), (3, 5), (3, 4)]
    everything = [[[0, 1, 2], [0, 1]], [[*range(5)], [*range(4)]]]
    fewer = prune_part(model, [[0, 2], [0, 1]], everything[1])
    assert heads[0][:, 1].tolist() == pytest.approx(by_hand(model, fewer, pixels, labels))
    fewer = prune_part(model, everything[0], [[0, 1, 2], [*range(4)]])
    last_two = by_hand(model, fewer, pixels, labels)
    assert neurons[0][:, 3].tolist() == neurons[0][:, 4].tolist() == pytest.approx(last_two)
    assert not torch.allclose(neurons[0][:, 0], neurons[0][:, 3]) and (heads[1] > 0).all()
    other = class_divergences(model, pixels, labels, units="heads", part=1)
    fewer = prune_part(model, [[1]], [[*range(8)]], part=1)
    assert other[0][:, 0].tolist() == pytest.approx(by_hand(model, fewer, pixels, labels))
    for options, message in (
        ({"units": "blocks"}, "units: got 'blocks'"),
        ({"units": "neurons", "together": 0}, "together: got 0"),
        ({"units": "heads", "together": 2}, "together: got 2 heads"),
        ({"units": "channels", "together": 12}, "together: got 12 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            class_divergences(model, pixels, labels, **options)
    with pytest.raises(ValueError, match="labels: got 5 up to 3 for 5 images, accepted are as many, from 0 to 2"):
        class_divergences(model, pixels, labels + 1)
    assert class_divergences(model, pixels, labels.clamp(max=1))[0].isnan().sum(1).tolist() == [0, 0, 3]


@torch.no_grad()
@pytest.mark.parametrize("part_type", ["vit", "deit", "cct"])
@pytest.mark.parametrize("fusion", [None, 7])
def test_a_part_without_channels_is_a_narrower_part(part_type, fusion):
    options = {"num_tokenizer_layers": 2} if part_type == "cct" else {}
    model, pixels = (
        build(part_type=part_type, fusion_hidden_size=fusion, **options),
        torch.randn(4, 3, 16, 16).double(),
    )
    kept = [0, 3, 4, 7, 10]
    small = prune_channels(model, kept)
    assert [part["hidden_size"] for part in small.config.parts] == [5, 8]
    assert part_macs(small.config) < part_macs(model.config)
    # The whole network, told by hand: other channels are nought everywhere, and norms are over those that are kept.
    masked = build(part_type=part_type, fusion_hidden_size=fusion, **options)

    def mask(part, width, kept):
        def over_the_kept(norm, args, output):
            if args[0].shape[-1] != width:
                return output
            values = args[0][..., kept]
            values = (values - values.mean(-1, keepdim=True)) / (
                values.var(-1, unbiased=False, keepdim=True) + norm.eps
            ).sqrt()
            wide = torch.zeros_like(output)
            wide[..., kept] = values * norm.weight[kept] + norm.bias[kept]
            return wide

        for module in part.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(over_the_kept)

    mask(masked.devit.parts[0], 12, kept)
    torch.testing.assert_close(small(pixels).logits, masked(pixels).logits)
    # Then the other part, whose columns of the fusion begin where those of the narrower part end.
    both = prune_channels(small, [1, 2, 6], part=1)
    mask(masked.devit.parts[1], 8, [1, 2, 6])
    assert [part["hidden_size"] for part in both.config.parts] == [5, 3]
    torch.testing.assert_close(both(pixels).logits, masked(pixels).logits)
    both = prune_channels(prune_channels(model, [1, 2, 6], part=1), kept)
    torch.testing.assert_close(both(pixels).logits, masked(pixels).logits)
    labels = torch.tensor([0, 1, 2, 0])
    found = class_divergences(model, pixels, labels, units="channels", together=5)
    assert len(found) == 1 and found[0].shape == (3, 12)
    without = prune_channels(model, [*range(5), 10, 11])
    assert found[0][:, 7].tolist() == pytest.approx(by_hand(model, without, pixels, labels))
    assert torch.equal(prune_channels(model, range(8), part=1)(pixels).logits, model(pixels).logits)
    for wrong in ([], [1, 1], [12]):
        with pytest.raises(ValueError, match="kept: got"):
            prune_channels(model, wrong)


@torch.no_grad()
def test_each_part_is_scored_by_its_own_layers_and_the_whole_networks_predictions():
    model, pixels, said = build().train(), torch.randn(4, 3, 16, 16).double(), []
    for part in model.devit.parts:
        for layer in part.layers:
            layer.attention.proj.register_forward_pre_hook(lambda module, args: said.append(args[0]))
            layer.mlp.fc2.register_forward_pre_hook(lambda module, args: said.append(args[0]))
    predictions = model.eval()(pixels).logits.softmax(-1)
    model.train()
    outputs = said[:]  # of two layers of the first part, and one of the second
    for number, own in ((0, outputs[:4]), (1, outputs[4:])):
        heads, neurons = score_part(model, pixels, part=number)
        layers = model.devit.parts[number].layers
        assert len(heads) == len(neurons) == len(layers) == len(own) // 2
        for layer, attended, activations, of_heads, of_neurons in zip(
            layers, own[::2], own[1::2], heads, neurons, strict=True
        ):
            shape = layer.attention.num_heads, layer.attention.head_dim
            torch.testing.assert_close(of_heads, head_scores(attended.unflatten(-1, shape), predictions))
            torch.testing.assert_close(of_neurons, neuron_scores(activations, predictions))
    assert model.training and not outputs[0].requires_grad
    assert len(class_divergences(model, pixels, torch.tensor([0, 1, 2, 1]))) == 2 and model.training
