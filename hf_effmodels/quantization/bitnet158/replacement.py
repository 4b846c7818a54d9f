"""Ternary layers in the place of a model's linear ones; goes with exported folders, so nothing but torch is used."""

from torch import nn

from .bitlinear import BitLinear
from .configuration_bitnet158 import BitNet158Config


def heads(model: nn.Module) -> list[str]:
    """Names of the linear layers that give the model's outputs: the output embeddings, or the last one there is."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = [name for name, module in linears.items() if module is output]
    # A task's head is no part of the base model: several heads may be there.
    base = getattr(model, "base_model", model)
    inside = {id(module) for module in base.modules()}
    if base is not model:
        found += [name for name, module in linears.items() if id(module) not in inside]
    return found or list(linears)[-1:]


def replace_linears(model: nn.Module, config: BitNet158Config, left: list[str]) -> int:
    """Change `torch.nn.Linear` for `BitLinear` of the same parameters; how many."""
    count = 0
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and not any(name == each or name.endswith(f".{each}") for each in left):
            options = {"activation_bits": config.activation_bits, "norm_before": config.norm_before}
            has_bias = module.bias is not None
            layer = BitLinear(
                module.in_features, module.out_features, has_bias, scale=config.scale, **options, device="meta"
            )
            layer.weight, layer.bias = module.weight, module.bias
            layer.train(module.training)
            model.set_submodule(name, layer)
            count += 1
    return count
