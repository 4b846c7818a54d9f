"""What the package uses of other libraries' private names (`private_names.py`), tried on the installed versions.

Run with `CONSTRAINTS=newest bash scripts/test.sh tests/test_private_names.py` to see what a new version breaks.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections import defaultdict
from functools import cache

import pytest

from . import package_source
from .package_source import is_private
from .private_names import NOT_PRIVATE, PRIVATE_NAMES, SKIPPED_INITS, TRIALS

#: Where Python itself keeps private names: abstract classes, protocols, enumerations, named tuples.
PYTHON = {"abc", "enum", "typing", "builtins", "collections"}


@cache
def defined_here() -> set[str]:
    """Private names that the package itself makes: functions, classes, variables, fields of its own objects."""
    names = set()
    for tree in package_source.trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if ast.unparse(node.value) in ("self", "cls"):
                    names.add(node.attr)
    return set(filter(is_private, names))


def is_here(module: str) -> bool:
    """The demo's own modules need gradio, which the tests' environment has not (SUITE=demo)."""
    return not module.startswith("hf_effmodels.demo.") or importlib.util.find_spec("gradio") is not None


def names_of_nobody_here() -> dict[str, str]:
    """Private names that are read, called, set or passed, but that the package does not make: name -> where."""
    used = {}
    for module, tree in package_source.trees().items():
        for target, name, line in package_source.imports(module):
            if is_private(name) and target not in package_source.trees():
                used[name] = f"{module}:{line}"
        parts_of_words = {id(part) for node in ast.walk(tree) for part in _parts_of_words(node)}
        for node in ast.walk(tree):
            names = []
            if id(node) in parts_of_words:
                continue
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.keyword) and node.arg:
                names = [node.arg]
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value)
            ):
                # As for getattr, or dotted as for operator.attrgetter.
                names = node.value.split(".")
            for name in names:
                if is_private(name) and name not in defined_here():
                    used.setdefault(name, f"{module}:{getattr(node, 'lineno', node.end_lineno)}")
    return used


def _parts_of_words(node: ast.AST) -> list[ast.AST]:
    """Texts that are put together or taken apart: `f"{part}_model"`, `name.removesuffix("_config")`."""
    if isinstance(node, ast.JoinedStr):
        return node.values
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("startswith", "endswith", "removeprefix", "removesuffix", "replace", "split"):
            return node.args
    return []


def names_that_our_classes_share_with_their_bases() -> dict[str, str]:
    """Private names that a class of the package makes and that a foreign base class of it knows, or of a class that it
    is mixed into."""
    bodies = {
        (module, node.name): node
        for module, tree in package_source.trees().items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    made = {owner: private_names_of(body) for owner, body in bodies.items()}
    shared = {}
    for module, name in bodies:
        if not is_here(module):
            continue
        cls = getattr(importlib.import_module(module), name)
        known = names_in_foreign_bases(cls)
        for base in cls.__mro__:
            for private in made.get((base.__module__, base.__name__), set()) & known:
                shared[private] = f"{base.__module__}.{base.__name__}"
    return shared


def private_names_of(body: ast.ClassDef) -> set[str]:
    """Private names that a class statement makes: methods, class variables, attributes of `self`."""
    names = {node.name for node in body.body if isinstance(node, ast.FunctionDef)}
    for statement in body.body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in ast.walk(body):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return set(filter(is_private, names))


def names_in_foreign_bases(cls: type) -> set[str]:
    """Private names that stand in the modules of the base classes that are neither ours nor Python's."""
    modules = {base.__module__ for base in cls.__mro__}
    foreign = {name for name in modules if name.split(".")[0] not in PYTHON | {"hf_effmodels"}}
    return set().union(*map(_words, foreign))


@cache
def _words(module: str) -> set[str]:
    return set(re.findall(r"\b_\w+", _source(module)))


@cache
def _source(module: str) -> str:
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return ""


def skipped_inits() -> dict[str, str]:
    """`super(Foreign, self)`, which passes by a constructor of a library's class: class -> where."""
    found = {}
    for module, tree in package_source.trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "super" and node.args:
                found[ast.unparse(node.args[0])] = f"{module}:{node.lineno}"
    return found


def test_every_private_name_of_another_library_is_on_the_list():
    found = names_of_nobody_here() | names_that_our_classes_share_with_their_bases()
    missing = {name: where for name, where in found.items() if name not in PRIVATE_NAMES.keys() | NOT_PRIVATE.keys()}
    assert missing == {}, "add them to tests/private_names.py, with what would break, or do without"
    unused = (PRIVATE_NAMES.keys() | NOT_PRIVATE.keys()) - found.keys()
    assert unused == set(), "no longer used: take them off the list"
    assert skipped_inits().keys() == SKIPPED_INITS.keys()


@pytest.mark.parametrize("name", sorted(PRIVATE_NAMES))
def test_the_library_still_has_it(name):
    """By its owner's code: an attribute, or at least a word of the source where it is set on instances only."""
    for owner in PRIVATE_NAMES[name].split():
        module, _, attribute = owner.partition(":")
        thing = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            thing = getattr(thing, part)
        if not hasattr(thing, name):
            source = _source(thing.__module__ if inspect.isclass(thing) else module)
            assert re.search(rf"\b{name}\b", source), f"{owner} has no {name} any more"


def test_overridden_methods_take_what_the_library_passes():
    """Each of ours can be called with the parameters of the method that it stands for."""
    checked = defaultdict(list)
    for module, tree in package_source.trees().items():
        for node in (n for n in tree.body if isinstance(n, ast.ClassDef) and is_here(module)):
            cls = getattr(importlib.import_module(module), node.name)
            for name in (n.name for n in node.body if isinstance(n, ast.FunctionDef) and n.name in PRIVATE_NAMES):
                theirs = next((vars(b)[name] for b in cls.__mro__[1:] if name in vars(b)), None)
                if not inspect.isfunction(theirs) or theirs.__module__.startswith("hf_effmodels"):
                    continue
                parameters = inspect.signature(theirs).parameters.values()
                needed = [p for p in parameters if p.default is p.empty]
                plain = [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
                named = {p.name: None for p in needed if p.kind == p.KEYWORD_ONLY}
                ours = inspect.signature(getattr(cls, name))
                # Further arguments of ours are for what the library passes on from its caller.
                bind = ours.bind_partial if any(p.kind == p.VAR_KEYWORD for p in parameters) else ours.bind
                # By position or by name: which of the two the library does, the trials show.
                try:
                    bind(*plain, **named)
                except TypeError:
                    try:
                        bind(*plain[:1], **{p.name: None for p in plain[1:]}, **named)
                    except TypeError as error:
                        pytest.fail(f"{module}.{node.name}.{name}{ours} for {theirs.__qualname__}: {error}")
                checked[name].append(cls)
    assert {"_init_weights", "_save_checkpoint", "_create_and_replace"} <= checked.keys()


@pytest.mark.parametrize("names", sorted(TRIALS), ids=lambda names: names.split()[0])
def test_it_still_does_what_we_use_it_for(names, tmp_path):
    assert set(names.split()) <= PRIVATE_NAMES.keys() | SKIPPED_INITS.keys()
    TRIALS[names](tmp_path)


@pytest.mark.parametrize("base", sorted(SKIPPED_INITS))
def test_a_constructor_that_is_passed_by_sets_nothing_that_ours_lacks(base):
    theirs, ours = SKIPPED_INITS[base]()
    lacking = (vars(theirs).keys() | theirs._modules.keys()) - (vars(ours).keys() | ours._modules.keys())
    # Theirs may call the decoder by another name, which `base_model_prefix` says.
    assert lacking <= {theirs.base_model_prefix}
