"""Training many nested networks in one: which are drawn, what each learns from, and by how much."""

import importlib

_MODULES = {
    "DelayedShrinking": ".delayed_shrinking",
    "SortedArguments": ".arguments",
    "SortedRun": ".sorted_runs",
    "SortedTraining": ".sorted_training",
    "sandwich_backward": ".sandwich",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
