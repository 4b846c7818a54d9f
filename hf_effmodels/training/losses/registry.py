"""The losses that recipes can name: every file of this folder is looked through, and nobody edits a list."""

import importlib
import inspect
import pkgutil
import types
from collections.abc import Mapping
from functools import cache
from typing import Literal, get_args, get_origin, get_type_hints

from .interface import DistillationLoss


@cache
def losses_by_name() -> Mapping[str, type[DistillationLoss]]:
    """Name in a recipe -> class, in alphabetical order."""
    package = __package__
    found: dict[str, type[DistillationLoss]] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        for loss in vars(importlib.import_module(f"{package}.{module.name}")).values():
            if inspect.isclass(loss) and issubclass(loss, DistillationLoss) and loss.name:
                if found.setdefault(loss.name, loss) is not loss:
                    raise TypeError(f"{loss.name!r} is the name of {found[loss.name]} and {loss}")
    return types.MappingProxyType(dict(sorted(found.items())))


def make_losses(asked_for: Mapping[str, Mapping | None]) -> dict[str, DistillationLoss]:
    """The losses of a recipe, `{name: {setting: value}}`, not built yet.

    Raises:
        ValueError: an unknown loss or setting, a value of the wrong type, or one that the loss refuses.
    """
    known = losses_by_name()
    made = {}
    for name, settings in asked_for.items():
        if name not in known:
            raise ValueError(f"--losses: got {name!r}, accepted are {', '.join(known)}.")
        settings = dict(settings or {})
        accepted = settings_of(known[name])
        for key, value in settings.items():
            if key not in accepted:
                raise ValueError(f"--losses: {name} takes no {key!r}, accepted are {', '.join(sorted(accepted))}.")
            if not _fits(value, accepted[key]):
                raise ValueError(f"--losses: {name}: {key}: got {value!r}, accepted are {_said(accepted[key])}.")
        try:
            made[name] = known[name](**settings)
        except ValueError as error:
            raise ValueError(f"--losses: {name}: {error}") from None
    return made


def settings_of(loss: type[DistillationLoss]) -> dict[str, type]:
    """The settings of a loss and their types."""
    hints = get_type_hints(loss.__init__)
    names = [name for name in inspect.signature(loss.__init__).parameters if name != "self"]
    return {name: hints[name] for name in names}


def _fits(value, kind) -> bool:
    if get_origin(kind) in (types.UnionType,) or str(get_origin(kind)) == "typing.Union":
        return any(_fits(value, option) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (list, tuple):
        (inner, *_) = get_args(kind)
        return isinstance(value, list | tuple) and all(_fits(item, inner) for item in value)
    if kind is type(None):
        return value is None
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _said(kind) -> str:
    if get_origin(kind) in (types.UnionType,) or str(get_origin(kind)) == "typing.Union":
        return " or ".join(_said(option) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (list, tuple):
        return f"lists of {_said(get_args(kind)[0])}"
    names = {float: "numbers", int: "whole numbers", bool: "true and false", str: "names", type(None): "null"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
