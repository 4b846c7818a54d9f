"""To the Hub and back: export a folder that loads anywhere, write its card, publish it."""

from .card import build_card
from .export import export
from .publish import publish

__all__ = ["build_card", "export", "publish"]
