"""Whether there is room for what is going to be written, asked before the long work."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import nn


def bytes_of_work(model: nn.Module, tokens: int, offload: bool) -> int:
    """About what the working folder holds at most.

    Args:
        model: with its weights in memory.
        tokens: of all calibration samples.
        offload: the blocks that are not in use lie there, too.
    """
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    states = 2 * 4 * tokens * model.config.get_text_config().hidden_size
    # Hidden states are written for a window before those of the last one go; integers take a byte each.
    return 2 * states + size * (2 if offload else 1)


def check_room(wanted: Mapping[str, tuple[Path, int]], kept: Path | None = None) -> None:
    """Refuse to begin what would end on a full disk.

    Args:
        wanted: argument -> the folder that it names and the bytes that are going to be written there. Folders on one
            disk share its room.
        kept: a folder whose files are part of those bytes.

    Raises:
        OSError: a disk has too little room.
    """
    disks: dict[int, list[str]] = {}
    for argument, (folder, _) in wanted.items():
        disks.setdefault(_nearest(folder).stat().st_dev, []).append(argument)
    for arguments in disks.values():
        needed = sum(wanted[argument][1] for argument in arguments)
        if kept in [wanted[argument][0] for argument in arguments] and kept.is_dir():
            needed -= sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
        folder = wanted[arguments[0]][0]
        free = shutil.disk_usage(_nearest(folder)).free
        if free < needed:
            raise OSError(
                f"{', '.join(arguments)}: the disk of {folder} has room for {free / 1e9:.3f} GB, about "
                f"{needed / 1e9:.3f} GB more are needed."
            )


def _nearest(folder: Path) -> Path:
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
