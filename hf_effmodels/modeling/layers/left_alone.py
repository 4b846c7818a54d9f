"""Parts of a model that are left alone, by their names: the argument `skip` of what changes a model in place."""

from collections.abc import Iterable

from torch import nn


def list_of_names(skip: str | Iterable[str]) -> list[str]:
    """`skip` as a list; a name may stand by itself.

    Raises:
        ValueError: something that is no list of names.
    """
    names = [skip] if isinstance(skip, str) else list(skip) if isinstance(skip, Iterable) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueError(f"skip: got {skip!r}, accepted are lists of names.")
    return names


def names_of_modules(model: nn.Module, skip: str | Iterable[str], others: tuple[str, ...] = ()) -> list[str]:
    """`skip` as a list of names of modules, or of `others` that have a meaning of their own.

    Raises:
        ValueError: something that is no list of names, or a name that the model does not have.
    """
    names, known = list_of_names(skip), {name for name, _ in model.named_modules()}
    if unknown := [name for name in names if name not in others and name not in known]:
        accepted = ", ".join(map(repr, others)) + " and names of modules" if others else "names of modules"
        raise ValueError(f"skip: the model has no {unknown[0]!r}, accepted are {accepted}.")
    return names


def is_within(name: str, parts: Iterable[str]) -> bool:
    """Whether the module `name` is one of `parts`, or in one of them."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)
