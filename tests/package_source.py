"""The package's source as syntax trees, for tests that read it."""

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "hf_effmodels"


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Dotted name of each module -> its syntax tree. A package's own name stands for its `__init__.py`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


@functools.cache
def folder(module: str) -> str:
    """The package that a module lies in; a package itself for its `__init__.py`."""
    return module if ROOT.parent.joinpath(*module.split(".")).is_dir() else module.rpartition(".")[0]


@functools.cache
def imports(module: str) -> tuple[tuple[str, str, int], ...]:
    """All that a module imports, wherever in it: (module, name in it or "", line), relative names resolved."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[tuple[str, str, int]]:
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            origin = importlib.util.resolve_name(relative, folder(module)) if node.level else node.module
            for alias in node.names:
                deeper = f"{origin}.{alias.name}"
                yield (deeper, "", node.lineno) if deeper in trees() else (origin, alias.name, node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if getattr(node.func, "attr", getattr(node.func, "id", "")).endswith("import_module"):
                yield node.args[0].value, "", node.lineno


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"
