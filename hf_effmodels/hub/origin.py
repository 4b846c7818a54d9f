"""Which model on the Hub the weights are of that a training begins with."""

import re
from pathlib import Path

from huggingface_hub import ModelCard

from .contents import CARD
from .ids import hub_id

_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[0-9a-f]{40}")


def origin(model: str | None) -> str | None:
    """The Hub id of what was named as a model: its own, that of the copy in the cache of the Hub's client, or of a
    folder the one that its card states as `base_model`. None where none is known."""
    if model is None or hub_id(model) is not None:
        return hub_id(model)
    if found := _SNAPSHOT.search(Path(model).resolve().as_posix()):
        return hub_id("/".join(found.groups()))
    if not (card := Path(model, CARD)).is_file():
        return None
    try:
        stated = ModelCard(card.read_text(encoding="utf-8")).data.base_model
    except Exception:  # of YAML, or of the client: a broken card only says less
        return None
    stated = stated[0] if isinstance(stated, list) and len(stated) == 1 else stated
    return hub_id(stated) if isinstance(stated, str) else None
