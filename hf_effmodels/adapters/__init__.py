"""PEFT methods. Importing this package (or peft, once hf_effmodels is imported) registers them with peft."""

from .adem import AdemConfig, AdemModel

__all__ = ["AdemConfig", "AdemModel"]
