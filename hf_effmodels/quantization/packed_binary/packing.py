"""Pack the binary layers of any model."""

import logging

import torch
from torch import nn

from ...modeling.layers.binary import ACTIVATION_RULES, BinaryRules, binarized_weights, binary_like, two_values
from ...modeling.layers.bivit import ATTENTION, BiVitLinear, centered_signs
from ...modeling.layers.untrainable import refuse_training
from ..stored import quantizer_of
from .configuration_packed_binary import PackedBinaryConfig
from .layers import REFUSAL, PackedConv2d, PackedLayer, PackedLinear

logger = logging.getLogger(__name__)

#: The `quant_method` of BiViT's layers in training, which `convert_to_bivit` makes.
TRAINED = "bivit"
#: Sums of as many signs are exact in float32.
_MOST_VALUES = 2**24


def pack_binary(model: nn.Module) -> nn.Module:
    """Replace the binary layers of a model by packed ones, in place; returns the model.

    A layer is packed if each of its filters has two values: all of AdaBin's, BiMLP's 1×1 layers, those that `binarize`
    and `binarize_transformer` made. Others stay as they are, which the log says: groups, BiMLP's depthwise layers,
    kernels with a weight that equals the centre exactly. `save_pretrained` writes the bits, and `from_pretrained`
    loads them.

    Args:
        model: any module in evaluation mode. Batch norms stay where they are; `deploy()` of this package's models
            folds them before.

    Raises:
        ValueError: in training mode, packed already, quantised otherwise, nothing to pack, or weights that are not
            finite.
    """
    if model.training:
        raise ValueError("model: it is in training mode; call model.eval() first.")
    if any(isinstance(module, PackedLayer) for module in model.modules()):
        raise ValueError("model: it is packed already.")
    own = getattr(model, "config", None)
    # Binary layers in training say so in the configuration, and are what is packed here.
    if quantizer_of(own) not in (None, TRAINED):
        raise ValueError("model: it is quantised already.")
    config = PackedBinaryConfig()
    pack_layers(model, config)
    if own is not None:
        from .quantizer_packed_binary import PackedBinaryHfQuantizer

        own.quantization_config = config
        model.hf_quantizer = PackedBinaryHfQuantizer(config, pre_quantized=True)
    return refuse_training(model, REFUSAL)


@torch.no_grad()
def pack_layers(model: nn.Module, config: PackedBinaryConfig) -> None:
    """Replace the layers and write them into `config`."""
    binary = {n: m for n, m in model.named_modules() if isinstance(m, BinaryRules | BiVitLinear)}
    for name, layer in binary.items():
        if wrong := [own for own, value in layer.state_dict().items() if not torch.isfinite(value).all()]:
            raise ValueError(f"model: {name}.{wrong[0]} is not finite.")
    packed = {name: layer for name, module in binary.items() if (layer := _packed(module)) is not None}
    if not packed:
        raise ValueError(
            f"model: {type(model).__name__} has {len(binary)} binary layers, none of them with two values in each "
            "filter; accepted are models such as AdaBin, or what `binarize` made."
        )
    rest = {name: layer for name, layer in binary.items() if name not in packed}
    for name, layer in rest.items():
        if isinstance(layer, BiVitLinear):
            raise ValueError(
                f"model: {name} has weights that are real, or one that equals the mean of its row: they have no bits."
            )
        logger.info("%s stays as it is: it has groups, or more than two values in a filter.", name)
    for name, layer in packed.items():
        model.set_submodule(name, layer)
    config.layers = {name: layer.activations for name, layer in packed.items()}
    config.unpacked = {name: [layer.weight_rule, _rule(layer)] for name, layer in rest.items()}
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    config.attention = attention if attention == ATTENTION else None


def empty_layers(model: nn.Module, config: PackedBinaryConfig) -> None:
    """Put empty packed layers in the places that `config` names, for a checkpoint to be loaded into.

    Raises:
        ValueError: no name, one that the model does not have, or of something that is no convolution or linear layer.
    """
    if not config.layers:
        raise ValueError("quantization_config: layers names none, but the weights are packed.")
    modules = dict(model.named_modules())
    for name in (*config.layers, *config.unpacked):
        if not isinstance(modules.get(name), nn.Conv2d | nn.Linear):
            raise ValueError(
                f"quantization_config: {type(model).__name__} has no convolution or linear layer {name!r}."
            )
    for name, (weights, activations) in config.unpacked.items():
        if not isinstance(modules[name], BinaryRules):  # not this package's network, which has them by itself
            model.set_submodule(name, binary_like(modules[name], weights, activations))
    for name, activations in config.layers.items():
        layer = modules[name]
        kind = PackedConv2d if isinstance(layer, nn.Conv2d) else PackedLinear
        model.set_submodule(name, kind.like(layer, activations, device=layer.weight.device, dtype=layer.weight.dtype))


def _packed(layer: nn.Module) -> PackedLayer | None:
    """The packed form of a binary layer, None where it has none."""
    if isinstance(layer, BiVitLinear):
        if layer.scale is None:
            return None
        weight, activations = _bivit_weight(layer), "clipped_sign" if layer.binary_inputs else "real"
    else:
        weight = binarized_weights(layer.weight.double(), layer.weight_rule).to(layer.weight.dtype)
        activations = _rule(layer)
    convolves = isinstance(layer, nn.Conv2d)
    if convolves and (layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return None
    values = two_values(weight) if weight[0].numel() < _MOST_VALUES else None
    if values is None:
        return None
    kind = PackedConv2d if convolves else PackedLinear
    return kind.like(layer, activations, device=weight.device, dtype=weight.dtype).take(layer, values)


def _rule(layer: BinaryRules) -> str:
    """The name of a layer's activation rule."""
    return next(name for name, rule in ACTIVATION_RULES.items() if type(layer.binarizer) is rule)


def _bivit_weight(layer: BiVitLinear) -> torch.Tensor:
    signs = centered_signs(layer.weight.double())
    scale = layer.weight.double().abs().mean(1, keepdim=True)
    # A learnt scale that no forward pass has set yet is that, too.
    if layer.scale == "learned" and (layer.is_initialized or layer.scaling_factor.any()):
        scale = layer.scaling_factor.double()
    return (signs * scale).to(layer.weight.dtype)
