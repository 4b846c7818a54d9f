"""What these commands have written into a folder: a record there, by which they know their own files again.

A name says nothing: somebody else's folder may hold a `compression.json`, and a user may put a `vocab.json` into ours.
"""

import json
from pathlib import Path

from ...hub.checkpoints import sha256

#: In a folder that a step has written: the SHA-256 of each of its files.
RECORD = ".tiny_lm_files.json"


def write_record(folder: Path) -> None:
    """Write down that all that is in `folder` now was written by this command."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / RECORD).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, bool] | None:
    """Name of each file that was written into `folder` and is there still -> whether it is as it was written.

    None where there is no record, or one that is none.
    """
    try:
        digests = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(digests, dict) or not digests:
        return None
    there = {name: folder / name for name in digests if (folder / name).is_file()}
    return {name: not path.is_symlink() and sha256(path) == digests[name] for name, path in there.items()}
