"""What is an id on the Hub, and what a place on this machine."""

import os

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def hub_id(name: str | os.PathLike | None) -> str | None:
    """`name` where it is an id on the Hub, `"namespace/name"`; None where it is anything else.

    Anything else is a file or a folder of this machine (`data/photos`), a format or a built-in data set (`parquet`,
    `digits`), a path that can be no id (`./photos`, `a/b/c`), or nothing. Cards name ids as data sets and base models,
    where a path would mean nothing to others, or a stranger's repository.
    """
    text = "" if name is None else os.fspath(name)
    if text.count("/") != 1 or os.path.exists(text):
        return None
    try:
        validate_repo_id(text)
    except HFValidationError:
        return None
    return text
