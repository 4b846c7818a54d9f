"""What is ShuffleNetV2's own: the shuffle, the published sizes, the beginning, branches for its training."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from hf_effmodels import ShuffleNetV2Config, ShuffleNetV2ForImageClassification, create_image_processor, create_model
from hf_effmodels.modeling.layers.training_branches import (
    BranchedConvNorm,
    fold_training_branches,
    with_training_branches,
)
from hf_effmodels.modeling.shufflenetv2.modeling_shufflenetv2 import shuffled

TINY = {"depths": [2, 3], "hidden_sizes": [8, 12, 20], "final_size": 32, "image_size": 64, "num_labels": 5}


def test_channels_of_both_halves_take_turns_and_half_of_them_pass_a_unit_untouched():
    numbers = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffled(numbers).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    unit = ShuffleNetV2ForImageClassification(ShuffleNetV2Config(**TINY)).eval().shufflenetv2.stages[1].units[1]
    features = torch.randn(2, 20, 4, 4)
    with torch.no_grad():
        assert torch.equal(unit(features)[:, ::2], features[:, :10])
        assert not torch.equal(unit(features)[:, 1::2], features[:, 10:])


@pytest.mark.parametrize(
    "name, parameters", [("0.5x", 1366792), ("1.0x", 2278604), ("1.5x", 3503624), ("2.0x", 7393996)]
)
def test_the_presets_have_as_many_parameters_as_torchvision_states(name, parameters):
    with torch.device("meta"):
        model = create_model(f"shufflenetv2-{name}")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.no_grad()
def test_stages_have_the_documented_strides_and_pictures_torchvisions_sizes():
    model = create_model("shufflenetv2-0.5x", num_labels=3)
    outputs = model(torch.randn(1, 3, 96, 64), output_hidden_states=True)
    assert [tuple(h.shape[1:]) for h in outputs.hidden_states] == [
        *((24, 24, 16), (48, 12, 8), (96, 6, 4), (192, 3, 2)),
    ]
    for name, shorter in (("1.0x", 256), ("1.5x", 232)):
        processor = create_image_processor(f"shufflenetv2-{name}")
        assert int(processor.size["shortest_edge"] / processor.crop_pct) == shorter


def test_weights_start_as_pytorch_draws_them():
    torch.manual_seed(0)
    model = create_model("shufflenetv2-1.0x", num_labels=100)
    unit = model.shufflenetv2.stages[2].units[1]
    for module, fan_in in ((unit.reduce.conv, 232), (unit.depthwise.conv, 9), (model.classifier, 1024)):
        assert module.weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.02)
        assert module.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
    assert 0 < model.classifier.bias.abs().max() <= 1024**-0.5


@torch.no_grad()
def test_each_of_its_convolutions_trains_as_branches_and_folds_back():
    torch.manual_seed(0)
    model = ShuffleNetV2ForImageClassification(ShuffleNetV2Config(**TINY))
    names, pairs = set(model.state_dict()), sum(isinstance(m, torch.nn.Conv2d) for m in model.modules())
    with_training_branches(model, 3)
    assert sum(isinstance(module, BranchedConvNorm) for module in model.modules()) == pairs == 21
    pixels = torch.randn(4, 3, 64, 64)
    for _ in range(3):
        model.train()(pixels)  # statistics of all branches
    expected = model.eval()(pixels).logits
    fold_training_branches(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.reparameterize()(pixels).logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"depths": []}, r"depths: got \[\]"),
        ({"depths": [2, 0]}, r"depths: got \[2, 0\]"),
        ({"hidden_sizes": [8, 12]}, "hidden_sizes: got .* accepted are 3 whole numbers"),
        ({"hidden_sizes": [8, 13, 20]}, "hidden_sizes: got .* an even one for each"),
        ({"final_size": 0}, "final_size: got 0"),
        ({"num_channels": 0}, "num_channels: got 0"),
        ({"classifier_dropout": 1}, "classifier_dropout: got 1"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(StrictDataclassError, match=message):
        ShuffleNetV2Config(**{**TINY, **wrong})
