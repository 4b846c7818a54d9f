"""The metrics as classes of this package: what `metrics.load` copies and imports from there."""

import inspect
from importlib import import_module
from pathlib import Path

import evaluate

from hf_effmodels import metrics

NAMES = sorted(file.stem for file in Path(metrics.__file__).parent.glob("*/*.py") if file.stem == file.parent.name)


def metric(name: str) -> evaluate.Metric:
    module = import_module(f"hf_effmodels.metrics.{name}.{name}")
    (found,) = (
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, evaluate.Metric) and kind.__module__ == module.__name__
    )
    return found(keep_in_memory=True)
