"""What may be a preset, a folder or an id on the Hub, before the libraries are loaded that would read it."""

from ._places import check_place
from .models import names_in_source


def check_model(argument: str, name: str, *, revision: tuple[str, str | None] | None = None) -> None:
    """`check_place` of what may be a preset, too."""
    presets = names_in_source()
    if presets is not None and name not in presets:
        check_place(argument, name, revision=revision)
