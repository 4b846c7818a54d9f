"""What kind of model a folder holds, by the text of its configuration and the tables in transformers' source: nothing
heavy is imported."""

import ast
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._exported import CONFIG, MODEL_INDEX
from ._imports import module_file
from ._model_place import check_model
from ._places import check_whole
from .architecture import TASKS
from .registry import ARCHITECTURES


def stated_config(folder: str | Path) -> dict[str, Any]:
    """The configuration in a folder; empty where there is none, or one that only its reader can say more about."""
    try:
        content = json.loads(Path(folder, CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def stated_type(folder: str | Path) -> str | None:
    """The `model_type` that a folder's configuration states, None where it states none."""
    model_type = stated_config(folder).get("model_type")
    return model_type if isinstance(model_type, str) else None


def check_head(argument: str, name: str, auto_class: str) -> None:
    """`check_model`; and OSError of a folder with a model of a type that an Auto class has no class for."""
    check_model(argument, name)
    check_whole(argument, name)
    known, model_type = _classes_behind(auto_class), stated_type(name)
    if known is None or model_type is None or model_type in known or auto_class in _own_code(name):
        return
    raise OSError(f"{argument}: {name} is a {model_type}, for which there is no {auto_class}.")


def tasks_of_folder(folder: str | Path) -> list[str]:
    """The tasks that the model in a folder has a head for, the main one first; empty where no text tells them."""
    if Path(folder, MODEL_INDEX).is_file():
        return ["super-resolution"]
    config, model_type, code = stated_config(folder), stated_type(folder), _own_code(folder)
    found = []
    for task in TASKS.values():
        known = {} if task.auto_class is None else _classes_behind(task.auto_class)
        if known is None:
            return []
        names = {*known.get(model_type, ()), str(code.get(task.auto_class)).rpartition(".")[2]}
        stated = config.get("architectures")
        if isinstance(stated, list) and any(isinstance(name, str) and name in names for name in stated):
            found.append(task.name)
    return found


def _own_code(folder: str | Path) -> Mapping[str, Any]:
    """Auto class -> class in the code beside a model."""
    mapping = stated_config(folder).get("auto_map")
    return mapping if isinstance(mapping, dict) else {}


@functools.cache
def _classes_behind(auto_class: str) -> dict[str, tuple[str, ...]] | None:
    """`model_type` -> the classes behind an Auto class, transformers' and ours; None where its source does not show
    them."""
    mappings, assigned = _tables()
    try:
        table = assigned[assigned[mappings[auto_class]].args[1].id].args[0]
        found = {key: (names,) if isinstance(names, str) else names for key, names in ast.literal_eval(table)}
    except (KeyError, IndexError, AttributeError, ValueError, TypeError):
        return None
    for architecture in ARCHITECTURES.values():
        if (ours := architecture.auto_classes.get(auto_class)) is not None:
            found[architecture.model_type] = (*found.get(architecture.model_type, ()), ours)
    return found


@functools.cache
def _tables() -> tuple[dict[str, str], dict[str, ast.expr]]:
    """Of transformers' Auto classes: class -> name of its mapping, and what is assigned to names."""
    mappings, assigned = {}, {}
    for node in ast.parse(module_file("transformers.models.auto.modeling_auto").read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned[node.targets[0].id] = node.value
        elif isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Name):
                    mappings[node.name] = line.value.id
    return mappings, assigned
