"""What kind of model a folder holds, by the text of its configuration and the tables in transformers' source: nothing
heavy is imported."""

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._exported import CONFIG, MODEL_INDEX
from ._files import mapping_in
from ._imports import module_file
from ._model_place import check_model
from ._places import check_whole, is_program, of_program
from .architecture import TASKS
from .registry import ARCHITECTURES


def stated_config(folder: str | Path) -> dict[str, Any]:
    """The configuration in a folder; empty where there is none, or one that only its reader can say more about."""
    return mapping_in(Path(folder, CONFIG))


def stated_type(folder: str | Path) -> str | None:
    """The `model_type` that a folder's configuration states, None where it states none."""
    model_type = stated_config(folder).get("model_type")
    return model_type if isinstance(model_type, str) else None


#: File of a folder without a configuration -> what such a folder holds.
_INSTEAD = (
    (MODEL_INDEX, "a pipeline of diffusers; accepted are models of transformers"),
    ("adapter_config.json", "an adapter; merge it into its model, and name the folder of the whole"),
)


def check_head(argument: str, name: str, *auto_classes: str, weights: bool = True) -> None:
    """`check_model`; and OSError of a folder that holds no whole model, or one of a type that none of the Auto classes
    has a class for (of none: of any type). `weights`: they are wanted, too, which an exported program has not."""
    check_model(argument, name)
    check_whole(argument, name)
    folder = Path(name)
    if folder.is_dir() and not (folder / CONFIG).is_file():
        for file, words in _INSTEAD:
            if (folder / file).is_file():
                raise OSError(f"{argument}: {name} holds {words}.")
        raise OSError(f"{argument}: {name} is no model's folder: it has no {CONFIG}.")
    if weights and is_program(name) and not any(any(folder.glob(f)) for f in ("*.safetensors", "pytorch_model*.bin")):
        raise OSError(of_program(argument, name))
    config, model_type = stated_config(name), stated_type(name)
    if config and not {"model_type", "auto_map", "pretrained_cfg"} & {*config}:  # the last: of timm
        raise OSError(f"{argument}: {name} holds no model of transformers: its {CONFIG} states no model_type.")
    if (
        model_type is None
        or not auto_classes
        or any(has_head(model_type, each) is not False or each in _own_code(config) for each in auto_classes)
    ):
        if auto_classes == ("AutoModelForCausalLM",):
            check_generates(argument, name, config)
        return
    raise OSError(f"{argument}: {name} is a {model_type}, for which there is no {' or '.join(auto_classes)}.")


def check_generates(argument: str, name: str, config: Mapping[str, Any]) -> None:
    """ValueError of a model that was saved with another head than that of a causal language model, or without one
    where it is an encoder: its type may have a causal one, too, which would compute something from its weights.

    Args:
        config: of the model, as a mapping.
    """
    own, model_type = tasks_in(config), config.get("model_type")
    bare = all(TASKS[task].auto_class == "AutoModel" for task in own)
    if not own or "text-generation" in own or bare and not has_head(model_type, "AutoModelForMaskedLM"):
        return
    raise ValueError(
        f"{argument}: {name} is a {model_type} for {' and '.join(own)}, accepted are causal language models."
    )


def has_head(model_type: str, auto_class: str) -> bool | None:
    """Whether an Auto class has a class for a type of model; None where its source does not show it."""
    known = _classes_behind(auto_class)
    return None if known is None else model_type in known


def check_saved_for(argument: str, name: str, *tasks: str, also: str = "") -> None:
    """OSError of a folder whose model was saved for other tasks: its type may have a class for these, too, of which
    weights would be lacking. One that names no class that is known passes.

    Args:
        tasks: those that are accepted.
        also: what is accepted besides, for the message.
    """
    config = stated_config(name)
    own = tasks_in(config)
    if own and not {*own} & {*tasks}:
        raise OSError(
            f"{argument}: {name} is a {config['architectures'][0]}, saved for {own[0]}; accepted are models "
            f"for {', '.join(tasks)}{also}."
        )


def check_pipeline(argument: str, name: str) -> None:
    """`check_model`; and OSError of a folder with something else than a pipeline of diffusers or a part of one."""
    check_model(argument, name)
    check_whole(argument, name)
    if not Path(name, MODEL_INDEX).is_file() and (model_type := stated_type(name)) is not None:
        raise OSError(f"{argument}: {name} is a {model_type} of transformers; accepted are pipelines of diffusers.")


def check_takes_images(argument: str, name: str) -> None:
    """OSError of a folder with a model of transformers without an image processor; timm's say it in their
    configuration."""
    files = ("preprocessor_config.json", "processor_config.json")
    if stated_type(name) not in (None, "timm_wrapper") and not any(Path(name, file).is_file() for file in files):
        raise OSError(f"{argument}: {name} is a {stated_type(name)} without an image processor ({files[0]}).")


def tasks_of_folder(folder: str | Path) -> list[str]:
    """The tasks that the model in a folder has a head for, the main one first; empty where no text tells them."""
    if Path(folder, MODEL_INDEX).is_file():
        return ["super-resolution"]
    return tasks_in(stated_config(folder))


def tasks_in(config: Mapping[str, Any]) -> list[str]:
    """The same of a configuration as a mapping."""
    model_type, code = config.get("model_type"), _own_code(config)
    found = []
    for task in TASKS.values():
        known = {} if task.auto_class is None else _classes_behind(task.auto_class)
        if known is None:
            return []
        classes = known.get(model_type, ()) if isinstance(model_type, str) else ()
        names = {*classes, str(code.get(task.auto_class)).rpartition(".")[2]}
        stated = config.get("architectures")
        if isinstance(stated, list) and any(isinstance(name, str) and name in names for name in stated):
            found.append(task.name)
    return found


def _own_code(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Auto class -> class in the code beside a model."""
    mapping = config.get("auto_map")
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
