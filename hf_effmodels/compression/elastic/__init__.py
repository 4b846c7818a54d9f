"""Networks that hold smaller ones: sub-networks whose weights are the leading part of the larger one's."""

import importlib

_MODULES = {
    "extract_submodel": ".submodels",
    "recalibrate_batch_norms": ".recalibration",
    "run_submodel": ".submodels",
    "submodel": ".submodels",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
