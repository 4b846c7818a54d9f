"""What may be a preset, a folder or an id on the Hub, before the libraries are loaded that would read it."""

import json
import os
from pathlib import Path

from ._exported import CONFIG
from ._places import check_folder_or_id
from .models import names_in_source


def check_model(argument: str, name: str, *, revision: tuple[str, str | None] | None = None) -> None:
    """`check_folder_or_id` of what may be a preset, too; and OSError for a folder that cannot be a model's."""
    presets = names_in_source()
    if presets is None or name in presets:
        return
    check_folder_or_id(argument, name, revision=revision)
    _check_config(argument, Path(name, CONFIG))
    # What is not in `config.json` is in the index of a pipeline, the settings of an adapter, the facts of halves.
    if os.path.isdir(name) and not any(any(Path(name).glob(files)) for files in ("*.json", "*/*.json")):
        raise OSError(f"{argument}: {name} is no model's folder: it has no config.json.")


def _check_config(argument: str, file: Path) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise OSError(f"{argument}: {file} is not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise OSError(f"{argument}: {file} holds no mapping of settings.")
