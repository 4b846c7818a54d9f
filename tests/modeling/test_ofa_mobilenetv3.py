"""Sub-networks of the elastic MobileNetV3, and what they may be asked for."""

from random import Random

import numpy as np
import pytest
import torch

from hf_effmodels.compression.elastic.recalibration import recalibrate_batch_norms
from hf_effmodels.modeling.ofa_mobilenetv3 import elastic
from hf_effmodels.modeling.ofa_mobilenetv3.configuration_ofa_mobilenetv3 import OfaMobileNetV3Config
from hf_effmodels.modeling.ofa_mobilenetv3.convert_ofa_mobilenetv3 import adapt
from hf_effmodels.modeling.ofa_mobilenetv3.modeling_ofa_mobilenetv3 import OfaMobileNetV3ForImageClassification

from .tiny.ofa_mobilenetv3 import TINY


@pytest.fixture
def model():
    torch.manual_seed(0)
    fields = TINY["ofa_mobilenetv3"] | {"kernel_sizes": [3, 5], "classifier_dropout": 0.5, "num_labels": 4}
    return OfaMobileNetV3ForImageClassification(OfaMobileNetV3Config(**fields)).eval()


PIXELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_sub_network_is_saved_and_loaded_as_a_plain_one(model, tmp_path):
    mixed = {"kernel_sizes": [3, 5, 3, 5], "expand_ratios": [2, 3, 3, 2], "depths": [2, 1]}
    expected = elastic.run_submodel(model, mixed, pixel_values=PIXELS).logits
    elastic.extract_submodel(model, mixed).save_pretrained(tmp_path)
    loaded = OfaMobileNetV3ForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(PIXELS).logits, expected)
    assert not [name for name, _ in loaded.named_parameters() if "kernel_transforms" in name]
    loaded.reparameterize()
    torch.testing.assert_close(loaded(PIXELS).logits, expected, rtol=1e-4, atol=1e-5)


def test_what_no_sub_network_uses_gets_no_gradient(model):
    smallest = elastic.smallest_submodel(model.config)
    elastic.run_submodel(
        model.train(), smallest, pixel_values=PIXELS, labels=torch.tensor([0, 1, 2, 3])
    ).loss.backward()
    block = model.ofa_mobilenetv3.stages[1].blocks[0]
    used = 2 * block.expand.conv.in_channels  # of the expansion 2 of 3
    assert block.expand.conv.weight.grad[:used].abs().sum() > 0
    assert not block.expand.conv.weight.grad[used:].any()
    assert block.kernel_transforms["5to3"].grad.abs().sum() > 0
    assert model.ofa_mobilenetv3.stages[1].blocks[1].expand.conv.weight.grad is None


def test_only_the_largest_sub_network_has_dropout(model):
    def differs(submodel) -> bool:
        first, second = (elastic.run_submodel(model, submodel, pixel_values=PIXELS).logits for _ in range(2))
        return not torch.equal(first, second)

    model.dropout.train()
    model.training = True
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0
    assert differs(elastic.largest_submodel(model.config))
    assert not differs(elastic.smallest_submodel(model.config))


def test_draws_are_those_of_their_numbers_and_reach_every_choice(model):
    draws = [elastic.draw_submodel(model.config, step, index) for step in range(20) for index in range(2)]
    assert draws[3] == elastic.draw_submodel(model.config, 1, 1) and draws[2] != draws[3]
    for name in ("kernel_sizes", "expand_ratios", "depths"):
        assert {value for draw in draws for value in draw[name]} == set(getattr(model.config, name))
    tied = elastic.draw_submodel(model.config, 5, tied=True)
    assert set(tied["kernel_sizes"]) == {5}
    drawn = Random(12_007_000)  # of the step and three digits of the index: no two have the same
    assert elastic.draw_submodel(model.config, 12, 7) == {
        "kernel_sizes": [drawn.choice([3, 5]) for _ in range(4)],
        "expand_ratios": [drawn.choice([2, 3]) for _ in range(4)],
        "depths": [drawn.choice([1, 2]) for _ in range(2)],
    }
    ratio = {1: 2, 2: 3}  # the n-th depth goes with the n-th expansion
    assert tied["expand_ratios"] == [ratio[depth] for depth in tied["depths"] for _ in range(2)]


def test_calibration_takes_the_averages_over_batches_by_their_size(model):
    batches = [{"pixel_values": PIXELS[:3]}, {"pixel_values": PIXELS[3:]}]
    stem = model.ofa_mobilenetv3.stem.convolution
    features = [stem.conv(batch["pixel_values"]) for batch in batches]
    variances = [part.transpose(0, 1).flatten(1).var(1, unbiased=False) for part in features]
    recalibrate_batch_norms(model, batches)
    torch.testing.assert_close(stem.norm.running_var, 0.75 * variances[0] + 0.25 * variances[1])
    torch.testing.assert_close(stem.norm.running_mean, torch.cat(features).mean((0, 2, 3)))
    assert not model.training and not stem.norm.training and stem.norm.momentum == 0.1
    with pytest.raises(ValueError, match="batches: there are none"):
        recalibrate_batch_norms(model, [])


@pytest.mark.parametrize(
    "change, reason",
    [({"kernel_sizes": [7] * 4}, "kernel_sizes .*out of 3, 5"), ({"depths": [1]}, "2 numbers out of 1, 2")],
)
def test_other_sub_networks_are_refused(model, change, reason):
    with pytest.raises(ValueError, match=reason):
        elastic.extract_submodel(model, elastic.smallest_submodel(model.config) | change)


def test_a_network_without_sub_networks_says_so(model):
    smaller = elastic.extract_submodel(model, elastic.smallest_submodel(model.config))
    with pytest.raises(ValueError, match="a sub-network already"):
        elastic.extract_submodel(smaller, elastic.smallest_submodel(model.config))
    with pytest.raises(ValueError, match="folded"):
        elastic.extract_submodel(model.reparameterize(), elastic.smallest_submodel(model.config))
    assert not [name for name in model.state_dict() if "kernel_transforms" in name]  # what only they would use


def test_checkpoints_of_sub_networks_have_their_blocks_in_the_stages_of_their_depths(model):
    config = elastic.submodel_config(model.config, elastic.smallest_submodel(model.config) | {"depths": [1, 2]})
    numbers = {f"blocks.{number}.project.norm.bias": number for number in range(4)}
    adapt(numbers, config)
    places = ((0, 0), (1, 0), (2, 0), (2, 1))
    assert numbers == {
        f"stages.{stage}.blocks.{place}.project.norm.bias": number for number, (stage, place) in enumerate(places)
    }


@torch.no_grad()
def test_a_smaller_kernel_is_the_middle_of_the_next_larger_one_through_its_matrix():
    torch.manual_seed(0)
    config = OfaMobileNetV3Config(**TINY["ofa_mobilenetv3"] | {"kernel_sizes": [5, 3, 7]})
    block = OfaMobileNetV3ForImageClassification(config).ofa_mobilenetv3.stages[1].blocks[0].double()
    for matrix in block.kernel_transforms.values():
        matrix.fill_(7)
    OfaMobileNetV3ForImageClassification(config)._init_weights(block.kernel_transforms)
    for matrix in block.kernel_transforms.values():
        assert torch.equal(matrix, torch.eye(len(matrix)))  # at first the middle itself
        matrix.normal_()
    kernels = {7: block.depthwise.conv.weight[:6, 0].numpy()}
    for large, small in ((7, 5), (5, 3)):
        middle = kernels[large][:, 1:-1, 1:-1].reshape(6, -1)
        kernels[small] = (middle @ block.kernel_transforms[f"{large}to{small}"].numpy().T).reshape(6, small, small)
    for size, kernel in kernels.items():
        np.testing.assert_allclose(elastic.kernel_of(block, size, 6)[:, 0].numpy(), kernel)


@torch.no_grad()
def test_a_block_that_halves_the_map_adds_no_input_however_wide_it_is():
    fields = TINY["ofa_mobilenetv3"] | {"base_widths": [8, 8, 8, 8]}
    model = OfaMobileNetV3ForImageClassification(OfaMobileNetV3Config(**fields)).eval()
    maps = model(PIXELS, output_hidden_states=True).hidden_states
    assert [hidden.shape[-1] for hidden in maps] == [16, 16, 8, 4]


def test_numbers_that_there_are_not_are_named(model):
    for index in (0, 999):
        elastic.draw_submodel(model.config, 1, index)
    for index in (-1, 1000):
        with pytest.raises(ValueError, match=f"index: got {index}, accepted are 0 to 999"):
            elastic.draw_submodel(model.config, 1, index)
    assert elastic.draw_submodel(model.config, 3) == elastic.draw_submodel(model.config, 3, 0, tied=False)
    three = OfaMobileNetV3Config(**TINY["ofa_mobilenetv3"] | {"expand_ratios": [2, 3, 4]})
    with pytest.raises(ValueError, match="tied: there are 2 depths and 3 expand_ratios, accepted are as many"):
        elastic.draw_submodel(three, 1, tied=True)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f"keep_widths: got {wrong}, accepted are 0 to 1"):
            elastic.sort_channels(model, wrong)


@torch.no_grad()
@pytest.mark.parametrize("keep_widths", [0, 1])
def test_sorted_channels_fall_in_importance_within_the_widths_that_are_kept(model, keep_widths):
    for name, value in (*model.named_buffers(), *model.named_parameters()):  # all that belongs to a channel goes along
        if name.endswith(("norm.weight", "running_var")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("bias", "running_mean")):
            value.normal_()
    expected = model(PIXELS).logits
    blocks = [block for stage in model.ofa_mobilenetv3.stages[1:] for block in stage.blocks]
    before = [block.project.conv.weight.abs().sum((0, 2, 3)) for block in blocks]
    elastic.sort_channels(model, keep_widths)
    torch.testing.assert_close(model(PIXELS).logits, expected, rtol=1e-4, atol=1e-5)
    for block, old in zip(blocks, before, strict=True):
        importance = block.project.conv.weight.abs().sum((0, 2, 3))
        narrow = 2 * block.expand.conv.in_channels  # of the expansion 2; all of them of 3
        for part in (slice(None, narrow), slice(narrow, None)) if keep_widths else (slice(None),):
            torch.testing.assert_close(importance[part], old[part].sort(descending=True).values)
        if block.squeeze_excite is not None:  # of the gate's units, too
            assert (block.squeeze_excite.expand.weight.abs().sum(0).diff() <= 0).all()


def test_the_largest_and_the_smallest_have_all_of_one_choice(model):
    config = model.config
    assert elastic.largest_submodel(config) == {
        "kernel_sizes": [5] * 4,
        "expand_ratios": [3] * 4,
        "depths": [2, 2],
    }
    assert elastic.smallest_submodel(config) == {
        "kernel_sizes": [3] * 4,
        "expand_ratios": [2] * 4,
        "depths": [1, 1],
    }
    taken = elastic.extract_submodel(model.double().train(), elastic.smallest_submodel(config))
    assert taken.training and taken.dtype == torch.float64 and taken.config.submodel["depths"] == [1, 1]
    assert config.submodel is None and len(taken.ofa_mobilenetv3.stages[1].blocks) == 1
