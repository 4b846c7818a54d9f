"""Each task's extras bring all the libraries that its modules import, and the core needs no extra."""

import ast
import configparser
import re
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from hf_effmodels.training import list_tasks
from hf_effmodels.training.task import task_extras

ROOT = Path(__file__).resolve().parents[1]
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")
EXTRAS = CONFIG["options.extras_require"]


def imports_of(file: Path) -> set[str]:
    """Dotted names of the modules that importing a file imports: what stands in functions comes later."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    found, inside = set(), list(ast.parse(file.read_text(encoding="utf-8")).body)
    while inside:
        node = inside.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif not isinstance(node, ast.FunctionDef | ast.Lambda) and not is_for_type_checkers(node):
            inside += ast.iter_child_nodes(node)
    return found


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def libraries_of(module: str) -> frozenset[str]:
    """Top-level names of the libraries that importing a module of this package imports, directly or not."""
    found, seen, waiting = set(), set(), [module]
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not file.is_file():
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])
        for imported in imports_of(file):
            if imported.startswith("hf_effmodels"):
                waiting.append(imported)
            else:
                found.add(imported.partition(".")[0])
    return frozenset(found - sys.stdlib_module_names - {"__future__"})


def names_in(text: str) -> set[str]:
    lines = [line.split(";")[0] for line in text.splitlines() if line.strip()]
    return {re.match(r"[\w.-]+", line.strip())[0].lower().replace("_", "-") for line in lines}


@cache
def brought_by(*extras: str) -> set[str]:
    """Distributions that are installed with the package and these extras: the named ones and what they need."""
    found, waiting = set(), names_in(CONFIG["options"]["install_requires"])
    waiting |= {name for extra in extras for name in names_in(EXTRAS[extra])}
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            needs = [line for line in requires(name) or () if "extra ==" not in line]
        except PackageNotFoundError:
            continue
        waiting |= names_in("\n".join(needs)) - found
    return found


@cache
def distributions_of_libraries() -> dict[str, list[str]]:
    return packages_distributions()


def missing(libraries, *extras: str) -> set[str]:
    distributions = distributions_of_libraries()
    brought = brought_by(*extras)
    return {
        library
        for library in libraries
        if not brought & {name.lower().replace("_", "-") for name in distributions.get(library, [library])}
    }


def test_the_package_itself_needs_no_extra():
    assert not missing(libraries_of("hf_effmodels"))
    assert not missing(libraries_of("hf_effmodels.cli"))


@pytest.mark.parametrize("task", list_tasks())
def test_the_extras_of_a_task_bring_what_it_imports(task):
    libraries = libraries_of(f"hf_effmodels.training.tasks.{task.replace('-', '_')}.task")
    assert {"torch", "transformers", "accelerate"} <= libraries
    assert not missing(libraries, *task_extras(task))
    for extra in task_extras(task):  # and none of them is said in vain
        assert missing(libraries, *(other for other in task_extras(task) if other != extra))


def test_the_tests_environment_has_all_that_the_tasks_need():
    for task in list_tasks():
        for extra in task_extras(task):
            assert names_in(EXTRAS[extra]) <= names_in(EXTRAS["test"])
    assert names_in(EXTRAS["test"]) <= names_in(EXTRAS["dev"])
