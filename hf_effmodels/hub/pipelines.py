"""diffusers pipelines of this package as folders: what `publish` has to know of them; imports no diffusers itself."""

import importlib
import json
import os
import re
from pathlib import Path

from ..registry import PIPELINES
from .contents import MODEL_INDEX

PIPELINE_WEIGHTS = "diffusion_pytorch_model.safetensors"
#: What a card calls the pipeline that is not on the Hub yet.
LOCAL_PIPELINE_ID = "path/to/this/folder"

_WEIGHTS = re.compile(r"[^/]+/diffusion_pytorch_model[^/]*\.safetensors(\.index\.json)?")


def is_pipeline(model) -> bool:
    """Whether an object is a diffusers pipeline of this package."""
    return _package_of(model) is not None


def is_pipeline_weight(name: str) -> bool:
    """Whether a file of a repository holds the weights of a pipeline's component."""
    return _WEIGHTS.fullmatch(name) is not None


def export_pipeline(pipe, folder: str | os.PathLike, **facts) -> Path:
    """The `export` of the pipeline's own package."""
    return _module(_package_of(pipe), "export").export(pipe, folder, **facts)


def _package_of(model) -> str | None:
    """Which of `PIPELINES` an object's class comes from."""
    module = type(model).__module__
    return next((name for name, entry in PIPELINES.items() if module.startswith(f"{entry.package}.")), None)


def check_pipeline_folder(folder: Path) -> list[str]:
    """The components of a saved pipeline that have weights.

    Raises:
        ValueError: not a pipeline of this package, a component without its configuration, or code that is missing.
    """
    try:
        index = json.loads((folder / MODEL_INDEX).read_bytes())
    except ValueError as error:
        raise ValueError(f"folder_or_model: {folder / MODEL_INDEX} cannot be read ({error})") from error
    code = pipeline_code(index, str(folder))
    for name in code:
        if not (folder / name).is_file():
            raise ValueError(
                f"folder_or_model: {folder} has no {name}, without which it loads only where hf_effmodels is "
                "installed; save the pipeline again with its save_pretrained"
            )
    with_weights = []
    for component in _components(index):
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
        ValueError: it is of another pipeline.
    """
    name = _name(index, where)
    folder = Path(importlib.import_module(PIPELINES[name].package).__file__).parent
    files = {f"{stem}.py": folder / f"{stem}.py" for stem in PIPELINES[name].code}
    for component, (module, _) in _components(index).items():
        if (folder / f"{module}.py").is_file():
            files[f"{component}/{module}.py"] = folder / f"{module}.py"
    return {target: source.read_bytes() for target, source in files.items()}


def _name(index: dict, where: str) -> str:
    """Which of `PIPELINES` a `model_index.json` belongs to."""
    value = index.get("_class_name")
    for name in PIPELINES:
        if isinstance(value, list) and value[0] == f"pipeline_{name}":
            return name
    raise ValueError(
        f"{where}: its {MODEL_INDEX} is of {value!r}, accepted are pipelines of this package: {', '.join(PIPELINES)}"
    )


def _components(index: dict) -> dict[str, list[str]]:
    return {
        name: value
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and value[0] is not None
    }


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
