"""Binary layers in the blocks of a model, as its configuration says; goes with exported folders."""

from torch import nn

from ...modeling.layers.bivit import BiVitLinear, binarize_transformer
from .configuration_bivit import BiVitConfig


def make_binary(model: nn.Module, config: BiVitConfig) -> nn.Module:
    """`binarize_transformer` with the options of `config`; returns the model."""
    options = {"attention": config.attention, "scale": config.scale, "binary_inputs": config.binary_inputs}
    return binarize_transformer(model, skip=config.skip, **options)


def begin_scales(model: nn.Module) -> None:
    """Let learnt scales follow from the weights at once, before an average of weights or an optimiser sees them."""
    for module in model.modules():
        if isinstance(module, BiVitLinear):
            module.begin_scale()
