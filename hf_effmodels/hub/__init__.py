"""To the Hub and back: convert an official checkpoint, export a folder that loads anywhere, publish it."""

from .card import build_card
from .convert import ConversionError, convert
from .export import export
from .pretrained import pretrained
from .publish import publish

__all__ = ["ConversionError", "build_card", "convert", "export", "pretrained", "publish"]
