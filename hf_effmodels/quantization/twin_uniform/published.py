"""The authors' quantised file: a whole pickled TinySAM whose layers carry their intervals as buffers.

Nothing of it is executed (`hub.pickled_modules`). What is known of it is the layers' code
(https://github.com/xinghaochen/TinySAM, `quantization_layer`): quantised linear layers have `w_interval`, `a_interval`
and counts of groups; a product of two operands is a module with `A_interval` and `B_interval`, and, where it follows a
softmax, `split`. Which layers are quantised is read from the file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .configuration_twin_uniform import TwinUniformConfig
from .layers import TwinLinear, add_products
from .uniform import fake_quantize, levels

#: Buffers of quantised layers: intervals, counts of groups, sizes of blocks, and what is filled up.
_PARTS = ("interval", "split", "a_bias")
_COUNTS = ("n_", "crb_", "pad_")


@dataclass
class PublishedLayers:
    """The quantised layers of a file, by their official names.

    Attributes:
        linears: intervals of the weight and the inputs, and whether these follow a GELU.
        products: of each attention the intervals of query, key and value, and the split.
        weight_bits, activation_bits: of all of them.
    """

    weight_bits: int
    activation_bits: int
    linears: dict[str, tuple[torch.Tensor, torch.Tensor, bool]] = field(default_factory=dict)
    products: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)


def take_published(tensors: dict[str, torch.Tensor], attributes: Mapping[str, Mapping]) -> PublishedLayers | None:
    """Take what belongs to quantised layers out of a file's tensors, which then are those of the float model.

    Kernels of convolutions that have intervals are replaced by what their integers stand for. None where nothing is
    quantised.

    Args:
        tensors: official name -> tensor; changed in place. attributes: official name of a module -> its plain values.

    Raises:
        ValueError: layers of several widths, or of a kind that cannot be computed here; it names the layer.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name in list(tensors):
        module, _, last = name.rpartition(".")
        if last.endswith(_PARTS[0]) or last in _PARTS or last.startswith(_COUNTS):
            found.setdefault(module, {})[last] = tensors.pop(name)
    # A layer in the mode `raw` computes in float, whatever intervals it has.
    used = {m: parts for m, parts in found.items() if attributes.get(m, {}).get("mode") != "raw"}
    widths, linears, products = {}, {}, {}
    for module, parts in used.items():
        plain = attributes.get(module, {})
        if "A_interval" in parts:
            widths[module] = (None, _width(module, plain, "A_bit"))
            if _width(module, plain, "B_bit") != widths[module][1]:
                raise ValueError(f"checkpoint: the operands of {module} have other numbers of bits each.")
            parent = module.rpartition(".")[0]
            products.setdefault(parent, {})["second" if "split" in parts else "first"] = parts
        elif tensors[f"{module}.weight"].ndim == 2:
            widths[module] = (_width(module, plain, "w_bit"), _width(module, plain, "a_bit"))
            linears[module] = (parts["w_interval"], parts["a_interval"], "a_neg_interval" in parts)
        else:
            if _width(module, plain, "a_bit") < 32:
                raise ValueError(f"checkpoint: the convolution {module} has quantised inputs, accepted are floats.")
            weight = tensors[f"{module}.weight"]
            tensors[f"{module}.weight"] = fake_quantize(weight, parts["w_interval"], _width(module, plain, "w_bit"))
    if not linears and not products:
        return None
    weights, activations = ({width[n] for width in widths.values()} - {None} for n in (0, 1))
    if len(weights) > 1 or len(activations) != 1:
        raise ValueError(
            f"checkpoint: its layers have weights of {sorted(weights)} and inputs of {sorted(activations)} bits; "
            "accepted is one number for all."
        )
    bits = activations.pop()
    return PublishedLayers(
        weights.pop() if weights else 8,
        bits,
        linears,
        {name: _of_attention(name, both, bits) for name, both in products.items()},
    )


def _width(module: str, plain: Mapping, name: str) -> int:
    if type(plain.get(name)) is not int:
        raise ValueError(f"checkpoint: {module} has intervals and no {name}.")
    return plain[name]


def _of_attention(name: str, both: Mapping[str, Mapping[str, torch.Tensor]], bits: int) -> dict[str, torch.Tensor]:
    if both.keys() != {"first", "second"}:
        raise ValueError(f"checkpoint: of the two products of {name} only the {next(iter(both))} is quantised.")
    first, second = both["first"], both["second"]
    split = second["split"].reshape(1)
    if not torch.allclose(second["A_interval"].reshape(-1), split / (levels(bits) - 1)):
        raise ValueError(f"checkpoint: the probabilities of {name} have an interval that is not that of their split.")
    found = {"query": first["A_interval"], "key": first["B_interval"], "value": second["B_interval"]}
    for operand, interval in found.items():
        if interval.ndim != 7 or interval.shape[1] != interval.numel():
            shape = tuple(interval.shape)
            raise ValueError(f"checkpoint: the {operand} of {name} has intervals {shape}, accepted is one a head.")
    return {**found, "split": split}


def put_published(model: nn.Module, layers: PublishedLayers, our_name: Callable[[str], str]) -> None:
    """Put the quantised layers into a model that has the file's float weights, in place.

    Args:
        our_name: official name of a module -> ours.
    """
    from .quantizer_twin_uniform import TwinUniformHfQuantizer

    # As the official code computes, with which the intervals were searched.
    config = TwinUniformConfig(weight_bits=layers.weight_bits, activation_bits=layers.activation_bits, shifted=True)
    for official, (of_weight, of_inputs, after_gelu) in layers.linears.items():
        name = our_name(official)
        groups = [of_weight.shape[0], of_weight.shape[2], of_inputs.shape[0], after_gelu]
        layer = TwinLinear.of(model.get_submodule(name), of_weight, of_inputs, groups, config)
        model.set_submodule(name, layer)
        config.linears[name] = groups
    for official, found in layers.products.items():
        name = our_name(official)
        attention = model.get_submodule(name)
        heads = getattr(attention, "num_heads", None) or attention.num_attention_heads
        add_products(attention, heads, config)
        for operand in ("query", "key", "value"):
            buffer = getattr(attention, f"{operand}_interval")
            buffer.copy_(found[operand].expand_as(buffer))
        attention.split.copy_(found["split"])
        config.products[name] = heads
    model.config.quantization_config = config
    model.hf_quantizer = TwinUniformHfQuantizer(config, pre_quantized=True)
    model.requires_grad_(False)
