"""Registering with transformers' Auto classes without importing what is registered; finding what is not imported."""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def module_file(module: str) -> Path:
    """The file of a module of an installed library, found without importing the library."""
    library, *inner = module.split(".")
    return Path(importlib.util.find_spec(library).origin).parent.joinpath(*inner).with_suffix(".py")


def when_imported(module_name: str, callback: Callable[[], None]) -> None:
    """Call `callback` once `module_name` has been imported: now if it has been already, else right after its import.

    transformers' Auto classes take a fifth of a second to import and the model base class two seconds; registering
    our classes must not make everybody who imports this package wait for them.
    """
    if module_name in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _CallbackFinder(module_name, callback))


class _CallbackFinder:
    """Hands the search for one module to the regular finders and hooks into its loader; then it removes itself."""

    def __init__(self, module_name: str, callback: Callable[[], None]):
        self.module_name = module_name
        self.callback = callback

    def find_spec(self, fullname, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module_name:
            return None
        sys.meta_path.remove(self)
        spec = next(
            (
                found
                for finder in list(sys.meta_path)
                if (found := finder.find_spec(fullname, path, target)) is not None
            ),
            None,
        )
        if spec is not None and spec.loader is not None:
            spec.loader = _CallbackLoader(spec.loader, self.callback)
        return spec


class _CallbackLoader:
    """The original loader, followed by the callback. No `importlib.abc.Loader`: its import costs more than ours."""

    def __init__(self, loader, callback: Callable[[], None]):
        self.loader = loader
        self.callback = callback

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module) -> None:
        # The module shall keep its own loader: inspect, pickle and pkgutil look at it.
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.callback()


@dataclass(frozen=True)
class Placeholder:
    """Stands for the attribute `name` of the module `module` until somebody reads it."""

    module: str
    name: str

    def load(self):
        return getattr(importlib.import_module(self.module), self.name)


def register_lazily(mapping, key, value: Placeholder | dict[str, Placeholder]) -> None:
    """Register what `value` stands for under `key` in one of transformers' Auto mappings; it is loaded when read.

    `key` may be a placeholder, too: the class behind it is loaded when somebody first looks for one.

    The public `register` wants the class itself. Classes cannot be imported when the Auto classes are: transformers'
    own modules import those half-way through (`modeling_layers` does), and our classes import them.
    """
    if not isinstance(mapping._extra_content, LazyContent):
        mapping._extra_content = LazyContent(mapping._extra_content)
    mapping._extra_content[key] = value


class LazyContent(UserDict):
    """A dictionary that gives out the objects its placeholders stand for.

    Whatever reads it, iterates over it or makes a plain `dict` of it, as `copy` and `pickle` of an Auto mapping do,
    sees the objects; only `data` has the placeholders of the values. A copy of its own kind keeps them, and so stays
    lazy.
    """

    def __init__(self, *content, **more):
        self._waiting: dict = {}
        super().__init__(*content, **more)

    @property
    def data(self) -> dict:
        while self._waiting:
            key, value = self._waiting.popitem()
            self._content[key.load()] = value
        return self._content

    @data.setter
    def data(self, content: dict) -> None:
        self._content = content

    def __setitem__(self, key, value) -> None:
        if isinstance(key, Placeholder):
            self._waiting[key] = value
        else:
            self._content[key] = value

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if isinstance(value, dict):
            return {name: item.load() if isinstance(item, Placeholder) else item for name, item in value.items()}
        return value.load() if isinstance(value, Placeholder) else value

    def copy(self) -> "LazyContent":
        return LazyContent(self.data)

    __copy__ = copy
