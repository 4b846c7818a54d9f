"""What a model tells of itself under the names that transformers' own tools ask for."""

import pytest
import torch
from torch import nn

from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.tinysam.modeling_tinysam import TinySamVisionModel
from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config, tiny_fields


def fields(name):
    return tiny_fields(ARCHITECTURES[name])


#: Model type -> sizes, by another way than the configuration's own.
SIZES = {
    "devit": lambda f: {"num_hidden_layers": sum(len(part["intermediate_sizes"]) for part in f["parts"])},
    "gold_yolo": lambda f: {"num_hidden_layers": len(f["depths"])},
    "dtop": lambda f: {"hidden_sizes": [24, 24, 24, 24]},
}


@pytest.mark.parametrize("name", SIZES)
def test_a_configuration_tells_its_depth_and_widths(name):
    config = tiny_config(ARCHITECTURES[name])
    for key, expected in SIZES[name](fields(name)).items():
        assert getattr(config, key) == expected


def test_an_image_encoder_of_several_stages_tells_the_last_ones_width_and_how_many_there_are():
    config = tiny_config(ARCHITECTURES["tinysam"]).vision_config
    assert (config.hidden_size, config.num_hidden_layers) == (32, 4)


def test_the_layer_that_sees_the_pixels_is_the_input_embedding():
    """Gradients of the inputs are asked for there, as adapters over frozen networks need them."""
    model = ARCHITECTURES["dtop"].model_class("AutoModelForSemanticSegmentation")(
        tiny_config(ARCHITECTURES["dtop"], num_labels=3)
    )
    assert model.get_input_embeddings().projection.weight.shape == (24, 3, 4, 4)
    encoder = TinySamVisionModel(tiny_config(ARCHITECTURES["tinysam"]).vision_config)
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == 3 and any(module is first for module in encoder.get_input_embeddings().modules())
    assert not any(isinstance(module, nn.Linear) for module in encoder.get_input_embeddings().modules())


@pytest.mark.parametrize(
    "side, kernel, padding, fits", [(3, 4, 0, False), (3, 3, 0, True), (2, 4, 1, True), (1, 4, 1, False)]
)
def test_maps_smaller_than_an_adder_layers_kernel_are_refused(side, kernel, padding, fits):
    layer = AdderConv2d(2, 3, kernel, padding=padding)
    for shape in ((1, 2, side, 6), (1, 2, 6, side)):
        if fits:
            assert 1 in layer(torch.zeros(shape)).shape[2:]
            continue
        with pytest.raises(ValueError) as error:
            layer(torch.zeros(shape))
        assert str(error.value) == f"inputs: {shape} is smaller than the kernel {(kernel, kernel)}."
