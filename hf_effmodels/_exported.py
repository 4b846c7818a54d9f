"""Folders that `hub.export` has written, known by their files alone."""

import json
import os
from pathlib import Path
from typing import Any

from ._model_files import MODEL_INDEX
from ._places import check_repo_id

#: How the code of an export begins.
HEADER = "# hf_effmodels "
CONFIG, CARD = "config.json", "README.md"
#: Charts of a training that a card shows, with what they are. Pictures made of data are none: they are its owner's.
FIGURES = {
    "training_curve.png": "Training",
    "confusion_matrix.png": "Which class was taken for which",
    "calibration.png": "Whether probabilities can be believed",
    "precision_recall.png": "Precision over recall",
    "quantization_report.png": "How far quantised blocks and layers are off",
}


def is_export(folder: Path) -> bool:
    """Whether a folder was written by `export`: its configuration points to code that has our header."""
    try:
        modules = {c.partition(".")[0] for c in json.loads((folder / CONFIG).read_bytes())["auto_map"].values()}
        return bool(modules) and all((folder / f"{m}.py").read_bytes().startswith(HEADER.encode()) for m in modules)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return False


def is_codeless(folder: Path) -> bool:
    """Whether a folder holds a model that no code of this package lies beside: somebody else's, such as one of
    transformers' own classes, or one made around somebody else's network. What an export lies in is none."""
    from .registry import ARCHITECTURES

    if (folder / "export.json").is_file() or (folder / "split.json").is_file() or is_export(folder / "hub"):
        return False
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        model_type = config["model_type"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
    own = ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    return isinstance(model_type, str) and (own is None or own.in_halves) and is_elsewhere(config.get("auto_map"))


def is_elsewhere(auto_map: Any) -> bool:
    """Whether the code that a setting points to, if it does, is that of a repository which it names."""
    if auto_map is None:
        return True
    places = auto_map.values() if isinstance(auto_map, dict) else ()
    names = [name for place in places for name in (place if isinstance(place, list) else [place]) if name is not None]
    return bool(names) and all(isinstance(name, str) and "--" in name for name in names)


def check_export(folder: Path, repo_id: str = "your-name/name") -> None:
    """ValueError unless a folder was written by `export`, or holds a pipeline, or a model that needs no code of ours.

    Args:
        folder: to be published.
        repo_id: where, for the advice.
    """
    if not folder.is_dir():
        raise ValueError(f"folder_or_model: {folder} is not a folder")
    if (folder / MODEL_INDEX).is_file() or is_export(folder):
        return
    if is_codeless(folder):
        if not (folder / CARD).is_file():
            raise ValueError(f"folder_or_model: {folder} has no {CARD}, which says what it is and under which licence")
        return
    raise ValueError(
        f"folder_or_model: {folder} is not an exported model (its {CONFIG} must have an auto_map with the code "
        f"beside it); {_instead(folder, repo_id)}"
    )


def _instead(folder: Path, repo_id: str) -> str:
    """What is to be done with a folder that is no export of a model."""
    if is_export(folder / "hub"):  # of a run
        return f"{folder / 'hub'} is one"
    if any((half / "split.json").is_file() for half in (folder, folder / "head")):
        return "it holds a half of a split model, which uploads itself: SplitHead and SplitTail have push_to_hub"
    if (folder / "export.json").is_file():
        return f"it holds a program, which needs no code: `hf upload {repo_id} {folder}` uploads all that is there"
    return "write one with hf_effmodels.hub.export(model, processor, folder)"


def check_request(
    folder_or_model: Any, repo_id: str, *, revision: str | None, create_pr: bool, refresh_code: bool
) -> None:
    """ValueError for arguments of `hub.publish` that do not go together."""
    check_repo_id(repo_id)
    if create_pr and revision is not None:
        raise ValueError(f"revision: got {revision!r} with create_pr=True, but pull requests are opened against main")
    if folder_or_model is None and not refresh_code:
        raise ValueError("folder_or_model: got None, which only refresh_code=True accepts")


def check_unless_export(folder: str | os.PathLike) -> None:
    """FileExistsError of a folder that `export` would not write into, an earlier export apart."""
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder: {folder} is a file")
    if folder.is_dir() and not is_export(folder) and (names := sorted(os.listdir(folder))):
        raise holds_others(folder, names[0])


def holds_others(folder: Path, name: str) -> FileExistsError:
    """What is said of a folder with a file that no export has written."""
    return FileExistsError(
        f"folder: {folder} holds {name}, which is not part of an earlier export; choose another folder, or "
        "give overwrite=True to replace the files of the same name"
    )
