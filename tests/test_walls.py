"""The walls between the rooms of the package, read from its imports: at the top, lazy and for type checkers alike."""

import ast
from collections import defaultdict

from . import package_source
from .private_names import PRIVATE_NAMES

PACKAGE = "hf_effmodels"
#: A room with the rooms that nothing in it may import.
WALLS = {
    "modeling": ("hub", "training", "adapters", "quantization", "collaboration", "compression", "benchmarking"),
    "pipelines": ("training", "adapters", "quantization", "collaboration", "compression", "benchmarking"),
    "training.run": ("training.tasks",),
    "training.optim": ("training.tasks", "training.run"),
    "training.data": ("training.tasks",),
    "training.losses": ("training.tasks", "training.run", "training.data"),
    "architecture": ("modeling", "pipelines", "training", "hub", "adapters", "registry", "models"),
    "registry": ("training", "hub", "adapters"),
}
#: Folders whose sub-folders do not import each other, and the sub-folders that are there to be shared.
SIBLINGS = {
    "modeling": ("layers", "decoders"),
    "pipelines": (),
    "adapters": ("registration",),
    "quantization": ("registration", "stored"),
    "training.tasks": (),
}


def inside(module: str, room: str) -> bool:
    return module == f"{PACKAGE}.{room}" or module.startswith(f"{PACKAGE}.{room}.")


def crossings() -> list[str]:
    found = []
    for module in package_source.trees():
        for target, name, line in package_source.imports(module):
            if not target.startswith(PACKAGE):
                continue
            where = f"{module}:{line} imports {target}{f'.{name}' if name else ''}"
            for room, closed in WALLS.items():
                if inside(module, room):
                    found += [f"{where}: {room} never imports {other}" for other in closed if inside(target, other)]
            for parent, shared in SIBLINGS.items():
                if inside(module, parent) and inside(target, parent):
                    ours, theirs = (m.removeprefix(f"{PACKAGE}.{parent}").split(".")[1:2] for m in (module, target))
                    if ours and theirs and ours != theirs and theirs[0] not in shared:
                        found.append(f"{where}: {parent}.{theirs[0]} is no business of {parent}.{''.join(ours)}")
            if package_source.is_private(name) and package_source.folder(target) != package_source.folder(module):
                found.append(f"{where}: a private name of another room")
    return found


def test_no_import_goes_through_a_wall():
    assert crossings() == []


def test_no_room_reaches_for_a_private_attribute_of_another():
    """`x._name` stands only where `_name` is defined in the same folder, or is a library's (`private_names`)."""
    defined, used = defaultdict(set), defaultdict(list)
    for module, tree in package_source.trees().items():
        folder = package_source.folder(module)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined[node.name].add(folder)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined[node.id].add(folder)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                defined[node.attr].add(folder)
            if isinstance(node, ast.Attribute) and package_source.is_private(node.attr):
                used[node.attr].append((folder, f"{module}:{node.lineno} {ast.unparse(node)}"))
    wrong = [
        where
        for name, places in used.items()
        for folder, where in places
        if name in defined and folder not in defined[name] and name not in PRIVATE_NAMES
    ]
    assert wrong == []


def test_the_walls_are_where_the_rooms_are():
    """A wall around a room that was renamed would hold nothing."""
    rooms = {name.removeprefix(f"{PACKAGE}.") for name in package_source.trees()}
    planned = {"collaboration"}
    named = {*WALLS, *SIBLINGS, *(room for closed in WALLS.values() for room in closed)}
    assert named - rooms - planned == set()


def test_the_folders_that_the_registry_reads_do_not_import_it_back():
    for room in ("modeling", "pipelines"):
        targets = [f"{target}.{name}" for target, name, _ in package_source.imports(f"{PACKAGE}.{room}")]
        assert not [target for target in targets if "registry" in target]
