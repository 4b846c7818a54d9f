"""diffusers pipelines of this package as folders: what `publish` has to know of them; imports no diffusers itself."""

import importlib
import json
import os
from pathlib import Path

from ..registry import PIPELINES
from .contents import MODEL_INDEX, components

PIPELINE_WEIGHTS = "diffusion_pytorch_model.safetensors"
#: What a card calls the pipeline that is not on the Hub yet.
LOCAL_PIPELINE_ID = "path/to/this/folder"
#: What components may come from beside this package: their users have it.
LIBRARIES = ("diffusers", "transformers")


def is_pipeline(model) -> bool:
    """Whether an object is a diffusers pipeline of this package."""
    return _package_of(model) is not None


def export_pipeline(pipe, folder: str | os.PathLike, **facts) -> Path:
    """The `export` of the pipeline's own package."""
    return _module(_package_of(pipe), "export").export(pipe, folder, **facts)


def _package_of(model) -> str | None:
    """Which of `PIPELINES` an object's class comes from."""
    module = type(model).__module__
    return next((name for name, entry in PIPELINES.items() if module.startswith(f"{entry.package}.")), None)


def components_with_weights(folder: Path, index: dict) -> list[str]:
    """Those components of a saved pipeline that have weights; ValueError if one has no configuration."""
    with_weights = []
    for component in components(index):
        configurations = [
            name for name in ("config.json", "scheduler_config.json") if (folder / component / name).is_file()
        ]
        if not configurations:
            raise ValueError(f"folder_or_model: {folder} has no configuration of its component {component!r}")
        if configurations == ["config.json"]:
            with_weights.append(component)
    return with_weights


def pipeline_card(folder: Path, *, license: str, repo_id: str) -> str:
    """A model card for a saved pipeline that has none."""
    package = _name(json.loads((folder / MODEL_INDEX).read_bytes()), str(folder))
    pipe = _pipeline_class(package).from_pretrained(folder)
    return str(_module(package, "export").build_card(pipe, license=license, repo_id=repo_id))


def pipeline_code(index: dict, where: str) -> dict[str, bytes]:
    """The code files of a repository with this `model_index.json`, as the installed package has them.

    Raises:
        ValueError: it is of another pipeline, or has a component of other code.
    """
    entry = PIPELINES[_name(index, where)]
    folder = Path(importlib.import_module(entry.package).__file__).parent
    files = {f"{stem}.py": folder / f"{stem}.py" for stem in entry.code}
    for component, (module, _) in components(index).items():
        if isinstance(module, str) and module in entry.classes:
            files[f"{component}/{module}.py"] = folder / f"{module}.py"
        elif module not in LIBRARIES:
            accepted = ", ".join((*entry.classes, *LIBRARIES))
            raise ValueError(f"{where}: the class of its {component!r} is in {module!r}, accepted are {accepted}")
    return {target: source.read_bytes() for target, source in files.items()}


def _name(index: dict, where: str) -> str:
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
