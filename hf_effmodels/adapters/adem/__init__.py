"""ADEM: parameter-free cross-attention to image features in the feed-forward networks of any LLaMA-like decoder."""

from ..registration import register
from .config import AdemConfig
from .convert import convert_to_peft
from .hotswap import hotswap_adapter
from .layer import AdemLayer
from .model import AdemModel

__all__ = ["AdemConfig", "AdemLayer", "AdemModel", "convert_to_peft", "hotswap_adapter"]

register("adem", AdemConfig, AdemModel)
