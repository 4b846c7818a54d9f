"""Which pictures an exported program is calibrated on and checked on; a wrong folder is told before torch is there."""

from pathlib import Path

from PIL import Image

#: Pictures that are needed at least.
FEWEST = 8


def find_pictures(folder: str | Path) -> list[Path]:
    """The pictures in a folder and below, in order.

    Raises:
        ValueError: fewer than `FEWEST`. OSError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OSError(f"calibration: there is no folder {str(folder)!r}.")
    Image.init()
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in Image.EXTENSION)
    if len(found) < FEWEST:
        raise ValueError(f"calibration: {folder} has {len(found)} pictures, accepted are {FEWEST} or more.")
    return found
