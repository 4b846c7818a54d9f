"""A classifier in two halves, on two machines."""

import importlib

#: Public name -> its module; loaded when it is asked for: `-h` of the commands shall not wait for torch.
_PLACES = {
    "SplitClassifier": "client",
    "SplitOutput": "client",
    "FusedClassifier": "whole",
    "SplitHead": "halves",
    "SplitTail": "halves",
    "split": "halves",
    "SplitPoint": "points",
    "split_points": "points",
}

__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
