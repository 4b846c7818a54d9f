"""Models inside what torch wraps around them: torch.compile, DataParallel, DistributedDataParallel."""

from collections.abc import Mapping

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

_COMPILED = "_orig_mod"


def unwrap(model):
    """The model itself; what is no wrapper comes back as it is."""
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(model, torch.nn.Module) and (inner := dict(model.named_children()).get(_COMPILED)) is not None:
            model = inner
        else:
            return model


def unwrap_parts(model: torch.nn.Module) -> torch.nn.Module:
    """Replace compiled modules inside a model by the modules themselves, in place."""
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if (inner := unwrap(module)) is not module and name != _COMPILED:
                setattr(parent, name, inner)
    return model


def plain_names(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict by the names that the model has where no part of it is compiled."""
    return {name.replace(f"{_COMPILED}.", ""): value for name, value in state_dict.items()}
