"""Which parameters decay: the one rule of all recipes."""

from torch import nn


def decaying_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that decay: tensors of two or more dimensions (so neither biases nor norms), without
    those that the model, or a network it is built from, names in its own `no_weight_decay()`."""
    kept = set()
    for prefix, module in model.named_modules():
        if hasattr(module, "no_weight_decay"):
            kept |= {f"{prefix}.{name}" if prefix else name for name in module.no_weight_decay()}
    return {name for name, parameter in model.named_parameters() if parameter.ndim >= 2 and name not in kept}
