"""diffusers pipelines of this package as folders: what `publish` has to know of them; imports no diffusers itself."""

import importlib
import json
import os
from pathlib import Path

from .._files import check_folder, whole_folder
from ..registry import PIPELINES
from .contents import CARD, MODEL_INDEX, components, own_files, read_json

#: Library of a component -> the file of its weights; of this package's own networks that of diffusers'.
PIPELINE_WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}
#: What a card calls the pipeline that is not on the Hub yet.
LOCAL_PIPELINE_ID = "path/to/this/folder"
#: What components may come from beside this package: their users have it.
LIBRARIES = ("diffusers", "transformers")


def is_pipeline(model) -> bool:
    """Whether an object is a diffusers pipeline of this package."""
    return package_of(model) is not None


def export_pipeline(pipe, folder: str | os.PathLike, **facts) -> Path:
    """The `export` of the pipeline's own package."""
    return _module(package_of(pipe), "export").export(pipe, folder, **facts)


def package_of(model) -> str | None:
    """Which of `PIPELINES` an object is; None of anything else, such as their components."""
    modules = {base.__module__ for base in type(model).__mro__}
    return next((name for name, entry in PIPELINES.items() if f"{entry.package}.pipeline_{name}" in modules), None)


def write_pipeline(pipe, folder: str | os.PathLike, card: str, overwrite: bool = False) -> Path:
    """Write a pipeline of this package with its model card.

    Args:
        pipe: the pipeline.
        folder: where to; written beside under another name first, then renamed.
        card: the card's text.
        overwrite: replace a pipeline of the same class that `folder` holds; other files in it stay. Without it the
            folder must be new or empty.

    Raises:
        FileExistsError: `folder` holds something.
    """
    folder = Path(folder).resolve()
    overwrite = overwrite and is_pipeline_folder(folder, type(pipe).__name__)
    check_folder(folder, accepts_content=overwrite)
    ours = _own_names(folder) if overwrite else set()
    with whole_folder(folder, replaces=(lambda name, path: name in ours) if overwrite else None) as new:
        pipe.save_pretrained(new)
        (new / CARD).write_text(card, encoding="utf-8")
    return folder


def is_pipeline_folder(folder: str | os.PathLike, class_name: str) -> bool:
    """Whether a folder holds a pipeline of this class of this package, as its `save_pretrained` writes it."""
    try:
        config = json.loads((Path(folder) / MODEL_INDEX).read_bytes())
        return config["_class_name"][-1] == class_name
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def _own_names(folder: Path) -> set[str]:
    """What a pipeline's index says is part of it, with the code that goes with it."""
    try:
        code = pipeline_code(read_json(folder, MODEL_INDEX), str(folder))
    except ValueError:  # edited by hand: only what is written anew is replaced
        return set()
    return own_files(folder) | code.keys()


def weights_of_components(folder: Path, index: dict) -> list[str]:
    """The weights of a saved pipeline, by name in its folder; ValueError if a component has no configuration."""
    weights = []
    for component, (module, _) in components(index).items():
        configurations = [
            name for name in ("config.json", "scheduler_config.json") if (folder / component / name).is_file()
        ]
        if not configurations:
            raise ValueError(f"folder_or_model: {folder} has no configuration of its component {component!r}")
        if configurations == ["config.json"]:
            weights.append(f"{component}/{PIPELINE_WEIGHTS.get(module, PIPELINE_WEIGHTS['diffusers'])}")
    return weights


def pipeline_card(folder: Path, *, license: str, repo_id: str) -> str:
    """A model card for a saved pipeline that has none."""
    package = pipeline_of(json.loads((folder / MODEL_INDEX).read_bytes()), str(folder))
    pipe = _pipeline_class(package).from_pretrained(folder)
    return str(_module(package, "export").build_card(pipe, license=license, repo_id=repo_id))


def pipeline_code(index: dict, where: str) -> dict[str, bytes]:
    """The code files of a repository with this `model_index.json`, as the installed package has them.

    Raises:
        ValueError: it is of another pipeline, or has a component of other code.
    """
    entry = PIPELINES[pipeline_of(index, where)]
    folder = Path(importlib.import_module(entry.package).__file__).parent
    files = {f"{stem}.py": folder / f"{stem}.py" for stem in entry.code}
    for component, (module, _) in components(index).items():
        if isinstance(module, str) and module in entry.classes:
            files[f"{component}/{module}.py"] = folder / f"{module}.py"
        elif module not in LIBRARIES:
            accepted = ", ".join((*entry.classes, *LIBRARIES))
            raise ValueError(f"{where}: the class of its {component!r} is in {module!r}, accepted are {accepted}")
    return {target: source.read_bytes() for target, source in files.items()}


def pipeline_of(index: dict, where: str) -> str:
    """Which of `PIPELINES` a `model_index.json` belongs to."""
    value = index.get("_class_name")
    for name in PIPELINES:
        if isinstance(value, list) and len(value) == 2 and value[0] == f"pipeline_{name}":
            return name
    raise ValueError(
        f"{where}: its {MODEL_INDEX} is of {value!r}, accepted are pipelines of this package: {', '.join(PIPELINES)}"
    )


def _module(name: str, kind: str):
    file = kind if kind == "export" else f"{kind}_{name}"
    return importlib.import_module(f"{PIPELINES[name].package}.{file}")


def _pipeline_class(name: str):
    from diffusers import DiffusionPipeline

    module = _module(name, "pipeline")
    classes = [
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    return next(value for value in classes if issubclass(value, DiffusionPipeline))
