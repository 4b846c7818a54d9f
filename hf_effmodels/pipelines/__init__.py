"""Pipelines where a stock one of transformers or diffusers does not fit; what they need is loaded on first use."""

import importlib
import pkgutil


def __getattr__(name: str):
    """The public classes of the folders' entries; diffusers is imported only when one of them is asked for."""
    if name == "__all__":
        return sorted(_modules())
    if name.startswith("_") or (module := _modules().get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules()})


def _modules() -> dict[str, str]:
    """Public class -> the module that has it."""
    folders = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__) if m.ispkg]
    ours = [entry for folder in folders for entry in getattr(folder, "TASK_PIPELINES", ())]
    entries = [*ours, *(entry for folder in folders for entry in getattr(folder, "ENTRIES", ()))]
    found = {name: f"{e.package}.{module}" for e in entries for module, names in e.classes.items() for name in names}
    return found | {e.pipeline_class: f"{e.package}.{e.module}" for e in ours}
