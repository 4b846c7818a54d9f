"""What lies behind the names that a run was given: recorded with its arguments, and compared when it goes on.

Pictures, labels, texts and weights can be exchanged under the same path, branch or name. Their fingerprints are looked
at, which are cheap: evenly spread samples, and evenly spread numbers of each weight.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from .output_folder import RUN_FILE, read_run

logger = logging.getLogger(__name__)

#: The key of a run's record that they stand under.
CONTENTS = "contents"


def check_contents(config: dict, checkpoint: Path | None, output_dir: str, contents: Mapping[str, Mapping]) -> None:
    """Add to the record of a run what its data and models hold, and compare with the run that it goes on from.

    Args:
        config: the resolved arguments, which become `training_config.yaml`; gets them under `contents`.
        checkpoint: where to go on, from `open_run`; None for a run from the beginning.
        output_dir: of this run.
        contents: what -> its parts' fingerprints, such as `{"training data": {"samples": 40, "pictures": "3f..."}}`;
            see `data.fingerprints`. What is empty is not compared.

    Raises:
        ValueError: the run that is continued had others. One that only begins with another run's weights is warned.
    """
    config.setdefault(CONTENTS, {}).update({what: dict(parts) for what, parts in contents.items() if parts})
    if checkpoint is None or not (checkpoint.parent / RUN_FILE).is_file():
        return
    before = read_run(checkpoint.parent).get(CONTENTS)
    changed = _changes(before if isinstance(before, dict) else {}, contents)
    if not changed:
        return
    if checkpoint.resolve().parent == Path(output_dir).resolve():
        raise ValueError(
            f"--resume_from_checkpoint: {output_dir} holds a run on other data or weights. Since then there have "
            f"changed, under the same names: {'; '.join(changed)}. Bring back what was there, or start a run of its "
            f"own in another folder; that one may begin with --resume_from_checkpoint {checkpoint}."
        )
    for change in changed:
        logger.warning("unlike the run that wrote %s, under the same names: %s.", checkpoint, change)


def _changes(before: Mapping, now: Mapping) -> list[str]:
    changed = []
    for what, parts in now.items():
        known = before.get(what)
        for part, value in parts.items():
            old = known.get(part, value) if isinstance(known, dict) else value
            if old != value:
                is_count = isinstance(value, int) and isinstance(old, int)
                changed.append(f"the {part} of the {what}" + (f" ({old} -> {value})" if is_count else ""))
    return changed
