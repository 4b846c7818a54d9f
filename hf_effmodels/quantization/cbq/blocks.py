"""The decoder blocks of a model and the layers in them, found by their names: nothing is traced."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_cbq import CbqConfig
from .layer_names import is_named
from .settings import RANGES


@dataclass(frozen=True)
class Blocks:
    """A model's decoder blocks.

    Attributes:
        name: of the list, from the model.
        modules: the blocks.
        layers: for each block the names (in the block) of the linear layers to quantise.
        left: weights of two and more dimensions in the blocks that stay as they are, by their names in the model.
    """

    name: str
    modules: nn.ModuleList
    layers: list[list[str]]
    left: list[str]


def find_blocks(model: PreTrainedModel, config: CbqConfig) -> Blocks:
    """The blocks of the model's (text) decoder, checked for all that the quantisation needs.

    Raises:
        ValueError: a model that is quantised already, no blocks, layers of which none can be quantised, a group size
            that does not divide, weights shared between layers, or weights that are not finite.
    """
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None) is not None:
        method = getattr(getattr(model.config, "quantization_config", None), "quant_method", "as it says")
        raise ValueError(f"model: it is quantised already ({getattr(method, 'value', method)}).")
    name, modules = _block_list(model, config.blocks)
    skipped = config.modules_to_not_convert or []
    layers = [
        [
            inner
            for inner, module in block.named_modules()
            if type(module) is nn.Linear and not any(is_named(f"{name}.{i}.{inner}", each) for each in skipped)
        ]
        for i, block in enumerate(modules)
    ]
    quantised = {f"{name}.{i}.{inner}" for i, inners in enumerate(layers) for inner in inners}
    left = [
        f"{name}.{inner}"
        for inner, weight in modules.named_parameters()
        if weight.ndim >= 2 and f"{name}.{inner}".removesuffix(".weight") not in quantised
    ]
    if not quantised:
        if skipped and any(type(module) is nn.Linear for module in modules.modules()):
            raise ValueError(f"modules_to_not_convert: got {' '.join(skipped)}, which leaves no layer to quantise.")
        kinds = sorted({type(module).__name__ for module in modules.modules() if list(module.parameters(False))})
        raise ValueError(
            f"model: {type(model).__name__}'s blocks ({name}) hold no torch.nn.Linear to quantise; their layers "
            f"are of the kinds {', '.join(kinds)}."
        )
    _check_weights(model, sorted(quantised), config)
    return Blocks(name, modules, layers, left)


def _block_list(model: PreTrainedModel, asked_for: str | None) -> tuple[str, nn.ModuleList]:
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    if asked_for is not None:
        if asked_for not in lists:
            raise ValueError(f"blocks: got {asked_for!r}, the model's lists are {', '.join(lists) or 'none'}.")
        return asked_for, lists[asked_for]
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    # The outermost lists of modules of one kind: experts and attention heads are lists, too, inside of a block.
    candidates = {
        name: blocks
        for name, blocks in lists.items()
        if id(blocks) in inside
        and len({type(block) for block in blocks}) == 1
        and not any(name.startswith(f"{other}.") for other in lists)
        and any(isinstance(module, nn.Linear) or _has_matrix(module) for module in blocks.modules())
    }
    if not candidates:
        raise ValueError(
            f"model: no list of decoder blocks was found in {type(model).__name__}; name it, blocks='...'. Its lists "
            f"are {', '.join(lists) or 'none'}."
        )
    name = max(candidates, key=lambda name: sum(weight.numel() for weight in candidates[name].parameters()))
    return name, candidates[name]


def _has_matrix(module: nn.Module) -> bool:
    return any(weight.ndim >= 2 for weight in module.parameters(False))


def _group_sizes(inputs: dict[str, int]) -> str:
    """Which sizes fit all layers, or which layers are too narrow for any."""
    low, high = RANGES["group_size"]
    shared = math.gcd(*inputs.values())
    sizes = [size for size in range(low, min(shared, high) + 1) if shared % size == 0]
    if sizes:
        return f"accepted for this model are {', '.join(map(str, sizes))} and none (a step for each row)"
    return (
        f"no size from {low} on divides the inputs of all layers: accepted is none (a step for each row), or leave "
        f"narrow ones out, such as modules_to_not_convert={min(inputs, key=inputs.get)!r}"
    )


def _check_weights(model: nn.Module, names: list[str], config: CbqConfig) -> None:
    owners: dict[int, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        other = owners.setdefault(id(weight), name)
        if other != name and {name.removesuffix(".weight"), other.removesuffix(".weight")} & set(names):
            raise ValueError(
                f"model: {name} and {other} are one weight; layers that share weights cannot be quantised."
            )
    inputs = {name: model.get_submodule(name).in_features for name in names}
    for name in names:
        weight = model.get_submodule(name).weight
        if config.group_size and inputs[name] % config.group_size:
            raise ValueError(
                f"group_size: got {config.group_size}, which does not divide the {inputs[name]} inputs of {name}; "
                f"{_group_sizes(inputs)}."
            )
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise ValueError(f"model: the weight of {name} is not finite.")
