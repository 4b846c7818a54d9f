"""Figures that are composed, but not rendered."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from PIL import Image


@contextmanager
def undrawn() -> Iterator[None]:
    """Within, a figure of matplotlib is saved as one blank pixel."""
    with mock.patch("matplotlib.figure.Figure.savefig", _save_blank):
        yield


def _save_blank(self, file, *args, **kwargs) -> None:
    blank = io.BytesIO()
    Image.new("L", (1, 1), 255).save(blank, format="png")
    if hasattr(file, "write"):
        file.write(blank.getvalue())
    else:
        Path(file).write_bytes(blank.getvalue())
