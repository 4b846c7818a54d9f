"""What `--model` names: a preset, or a model on the Hub or in a folder."""

import difflib
import logging
import os
from collections.abc import Iterable

from ...models import list_models, model_info

logger = logging.getLogger(__name__)


def names_preset(name: str, revision: str | None, presets: Iterable[str], others: Iterable[str] = ()) -> bool:
    """Whether a model is to be built and not loaded.

    Args:
        name, revision: `--model` and `--revision`.
        presets: those of the task.
        others: what else is built, such as types of models of transformers.

    Raises:
        ValueError: neither that nor a folder or an id of the Hub, with what comes near; a preset of another task; a
            revision of a preset.
    """
    known = [*presets, *others]
    if name in known:
        if revision is not None:
            raise ValueError(
                f"--revision: got {revision!r}, which goes with a model on the Hub; {name} starts from random weights."
            )
        if os.path.isfile(os.path.join(name, "config.json")):
            logger.warning("--model: %s starts from random weights; the folder of this name is ./%s.", name, name)
        return True
    if name in list_models():
        raise ValueError(
            f"--model: {name} is a preset for {', '.join(model_info(name).tasks)}; of this task are "
            f"{', '.join(_nearest(name, known))}."
        )
    if "/" not in name and not os.path.exists(name):
        raise unknown_model(name, known)
    return False


def unknown_model(name: str, known: Iterable[str]) -> ValueError:
    """What is said of a name that is neither of the known ones nor a folder's."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else "hf-effmodels list shows them"
    return ValueError(f"--model: unknown preset {name!r}, and no such folder; {hint}.")


def _nearest(name: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=3, cutoff=0.0)
