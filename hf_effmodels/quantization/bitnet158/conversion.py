"""Any model's linear layers as ternary ones, for training from random or trained weights."""

from typing import TYPE_CHECKING

from torch import nn

from ...hub.checkpoints import check_model
from .bitlinear import BitLinear
from .configuration_bitnet158 import BitNet158Config

# Imported while transformers' models are.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


def convert_to_bitlinear(model: "PreTrainedModel", config: BitNet158Config | None = None) -> "PreTrainedModel":
    """Change all linear layers of a model but its head; embeddings and norms have no linear layers and stay.

    The weights that are there are trained on. The model is changed; its configuration says so, and `from_pretrained`
    builds the same layers where this package is imported.

    Raises:
        ValueError: the model is quantised already, has no layers to convert, or weights that are not finite.
    """
    config = config or BitNet158Config()
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError("model: it is quantised already.")
    check_model("model", model)
    left = [*(config.modules_to_not_convert or []), *heads(model)]
    if not replace_linears(model, config, left):
        raise ValueError(f"model: {type(model).__name__} has no linear layers beside its head.")
    config.modules_to_not_convert = sorted(set(left))
    # As it stands in a file: what is loaded with this configuration object reads it so.
    model.config.quantization_config = config.to_dict()
    return model


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
