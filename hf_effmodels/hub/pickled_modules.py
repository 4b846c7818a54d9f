"""Models that were saved whole, as pickled objects: their tensors are read, and none of their code.

PyTorch's own restricted reader (`weights_only=True`) is told to put an empty shell in the place of every class of an
allow-list; anything else that a file names is refused.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import torch

#: Dictionaries of other packages, such as settings that a module keeps.
_DICTIONARIES = re.compile(r"addict\.addict\.Dict")

#: Every module keeps a set; PyTorch's reader knows it.
_KNOWN = ("__builtin__.set", "builtins.set")


class Shell:
    """Stands for an object of a class that is not known here, and keeps its attributes."""

    def __init__(self, *args, **kwargs):
        pass


def shells_for(names: list[str], allowed: re.Pattern) -> list[tuple[type, str]] | None:
    """What `torch.serialization.safe_globals` takes so that a file that names these classes is read, None if one of
    them is not `allowed`."""
    names = [name for name in names if name not in _KNOWN]
    if not names or not all(allowed.fullmatch(name) for name in names):
        return None
    return [(OrderedDict if _DICTIONARIES.fullmatch(name) else Shell, name) for name in names]


def tensors_of(module: Shell) -> tuple[dict[str, torch.Tensor], dict[str, dict]]:
    """The state dict of a module that was read, and the plain attributes of each of its parts by the part's name."""
    tensors, attributes = {}, {}
    for path, part in _parts(module):
        fields = part.__dict__
        kept = [*(fields.get("_parameters") or {}).items(), *(fields.get("_buffers") or {}).items()]
        for name, value in kept:
            if isinstance(value, torch.Tensor):
                tensors[f"{path}.{name}".removeprefix(".")] = value.detach()
        plain = {n: v for n, v in fields.items() if isinstance(v, (bool, int, float, str)) and not n.startswith("_")}
        attributes[path] = plain
    return tensors, attributes


def _parts(module: Shell, path: str = "") -> Iterator[tuple[str, Shell]]:
    yield path, module
    for name, child in (module.__dict__.get("_modules") or {}).items():
        if isinstance(child, Shell):
            yield from _parts(child, f"{path}.{name}".removeprefix("."))


def is_module(value) -> bool:
    """Whether this is a module that was read."""
    return isinstance(value, Shell) and isinstance(value.__dict__.get("_modules"), Mapping)
