"""The flat code bundle of an exported folder.

transformers loads remote code from one flat folder and finds the files a module needs with a regular expression
(`transformers.dynamic_module_utils`): a line that starts with a `from`, one dot and a module name. So the bundle is
the modules asked for plus everything of this package that they import, each as a sibling file named by its last
component, with only the import lines rewritten. Whatever such a folder cannot express raises `ValueError` with the
file and the line: a wrong bundle would only fail on somebody else's machine.
"""

import ast
import hashlib
import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from transformers.dynamic_module_utils import get_imports, get_relative_imports

from .._exported import HEADER

PACKAGE = "hf_effmodels"
# What an environment with transformers and torch surely has. Anything else needs a guard that the scanner knows.
ALWAYS_INSTALLED = {"huggingface_hub", "numpy", "safetensors", "torch", "transformers"}


def bundle_code(
    modules: Iterable[str],
    package: str = PACKAGE,
    also: Mapping[str, str] = MappingProxyType({}),
    made: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, bytes]:
    """The files to put beside a checkpoint so that `modules` work without `package`.

    Args:
        modules: dotted names of the modules that define the classes of `auto_map`.
        package: the package whose modules are inlined; imports of everything else stay as they are.
        also: a module -> another one that it shall import, too, for what that does when it is imported.
        made: modules that are no files of the package: dotted name -> source, in flat form already.

    Returns:
        File name → content, sorted by name; the same bytes on every run. Comments and formatting are those of the
        source; one header line is added, which `is_bundled` recognises.

    Raises:
        ValueError: an import that a flat folder cannot express, two modules of the same last name, an optional
            dependency imported without a guard, or a docstring that the scanner would take for an import.
    """
    sources: dict[str, bytes] = {}
    pending = sorted(set(modules))
    while pending:
        name = pending.pop()
        if name in sources:
            continue
        sources[name], needed = (made[name], set()) if name in made else _flatten(name, package)
        if name in also:
            sources[name] += f"\nfrom .{_stem(also[name])} import __name__ as _  # noqa: E402, F401\n".encode()
            needed.add(also[name])
        pending.extend(needed - sources.keys())

    files: dict[str, bytes] = {}
    owners: dict[str, str] = {}
    for name in sorted(sources):
        stem = _stem(name)
        if (other := owners.setdefault(stem.lower(), name)) != name:
            raise ValueError(
                f"{other} and {name} would both become {stem}.py in the flat folder; rename one of the two modules"
            )
        files[f"{stem}.py"] = _header(name, package, sources[name]) + sources[name]
    _check(files)
    return dict(sorted(files.items()))


def is_bundled(content: bytes) -> bool:
    """Whether a Python file is one that `bundle_code` wrote, unchanged since: the checksum in its header tells.

    That is for telling our files from those of others, not for trusting them: anybody can write such a header.
    """
    header, _, source = content.partition(b"\n")
    return header.startswith(HEADER.encode()) and header.endswith(f"sha256 {_checksum(source)}".encode())


def _checksum(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()


def _header(name: str, package: str, source: bytes) -> bytes:
    try:
        release = version(package)
    except PackageNotFoundError:  # used from a source tree
        release = "(source tree)"
    where = f"{name.replace('.', '/')}.py"
    return f"{HEADER}{release}: {where}, licensed under Apache-2.0, sha256 {_checksum(source)}\n".encode()


def _stem(name: str) -> str:
    return name.rpartition(".")[2]


def _find(name: str) -> tuple[Path, bool] | None:
    """Source file of a module and whether it is a package's `__init__.py`; None where there is no such module."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None:
        return None
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(f"module {name} has no Python source file (found {spec.origin})")
    return Path(spec.origin), spec.submodule_search_locations is not None


def _flatten(name: str, package: str) -> tuple[bytes, set[str]]:
    """Source of one module with its imports of `package` rewritten, and the modules those imports need."""
    path, is_package, source, tree = _parse(name)
    if is_package:
        raise ValueError(f"{name} is a package ({path}); a flat folder holds modules only")
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    needed: set[str] = set()
    edits: list[tuple[int, int, bytes]] = []
    for node in ast.walk(tree):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            if ours := [a.name for a in node.names if _inside(a.name, package)]:
                raise ValueError(f"{where}: `import {ours[0]}` cannot be bundled; write `from {ours[0]} import name`")
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, name)
            if not _inside(origin, package):
                continue
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            targets = [(*_definition(origin, alias.name, where), alias) for alias in node.names]
            needed.update(module for module, _, _ in targets)
            edits.append((start, end, _rewrite(source[start:end], targets, node.col_offset, where)))
    for start, end, text in sorted(edits, reverse=True):
        source = source[:start] + text + source[end:]
    return source, needed


def _parse(name: str) -> tuple[Path, bool, bytes, ast.Module]:
    found = _find(name)
    if found is None:
        raise ValueError(f"module {name} does not exist")
    path, is_package = found
    source = path.read_bytes().replace(b"\r\n", b"\n")  # the same bytes from a Windows checkout
    return path, is_package, source, ast.parse(source, filename=str(path))


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _absolute(node: ast.ImportFrom, importer: str, importer_is_package: bool = False) -> str:
    if not node.level:
        return node.module
    parent = importer if importer_is_package else importer.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), parent)


def _definition(module: str, attribute: str, where: str) -> tuple[str, str]:
    """The plain module (and the name in it) behind `from module import attribute`: re-exports are followed."""
    found = _find(module)
    if found is None:
        raise ValueError(f"{where}: module {module} does not exist")
    if not found[1]:
        return module, attribute
    if attribute == "*":
        raise ValueError(f"{where}: `from {module} import *` from a package cannot be bundled; name what is needed")
    if _find(f"{module}.{attribute}") is not None:
        raise ValueError(
            f"{where}: {module}.{attribute} is a module; the flat folder needs `from {module}.{attribute} import name`"
        )
    path, _, _, tree = _parse(module)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == attribute:
                    origin = _absolute(node, module, importer_is_package=True)
                    return _definition(origin, alias.name, f"{path}:{node.lineno}")
    raise ValueError(f"{where}: {attribute} is not imported by name in {path}, so its module cannot be found")


def _rewrite(statement: bytes, targets: list[tuple[str, str, ast.alias]], indent: int, where: str) -> bytes:
    """One `from … import …` statement with its module replaced by the flat sibling(s)."""
    modules = sorted({module for module, _, _ in targets})
    if len(modules) == 1 and all(attribute == alias.name for _, attribute, alias in targets):
        sibling = f"from .{_stem(modules[0])} import".encode()
        text, count = re.subn(rb"\Afrom\b[\s\\]*[.\w]+[\s\\]+import\b", sibling, statement)
        if count != 1:
            raise ValueError(f"{where}: cannot rewrite `{statement.decode()}`; write the import in the usual form")
        return text
    lines = []
    for module in modules:
        names = [
            attribute if (alias.asname or alias.name) == attribute else f"{attribute} as {alias.asname or alias.name}"
            for origin, attribute, alias in targets
            if origin == module
        ]
        lines.append(f"from .{_stem(module)} import {', '.join(names)}")
    return ("\n" + " " * indent).join(lines).encode()


def _check(files: dict[str, bytes]) -> None:
    """Reads the bundle as transformers will: its scanner must see our imports, all of them and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        for name, content in files.items():
            written = {
                node.module
                for node in ast.walk(ast.parse(content))
                if isinstance(node, ast.ImportFrom) and node.level == 1
            }
            seen = set(get_relative_imports(Path(folder, name)))
            if only := sorted(seen - written):
                raise ValueError(
                    f"{name}: a text (docstring or string) has a line that starts with `from .{only[0]} import`; "
                    "transformers would look for that file"
                )
            if hidden := sorted(written - seen):
                raise ValueError(f"{name}: the import of .{hidden[0]} must stand at the start of a line")
            optional = set(get_imports(Path(folder, name))) - ALWAYS_INSTALLED - set(sys.stdlib_module_names)
            if optional:
                raise ValueError(
                    f"{name}: imports {', '.join(sorted(optional))}, which a transformers installation may lack; put "
                    "the import into `try:` or under `if is_…_available():`"
                )
