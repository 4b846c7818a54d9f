"""Configurations small enough for the common tests, a module per folder of `hf_effmodels/modeling`.

Each holds `TINY`: model_type -> fields of a network that has every kind of layer.
"""

import importlib

from hf_effmodels.architecture import Architecture


def tiny_fields(architecture: Architecture) -> dict:
    """Fields of the configuration of the architecture's tiny network."""
    return dict(importlib.import_module(f".{architecture.name}", __package__).TINY[architecture.model_type])


def tiny_config(architecture: Architecture, **overrides):
    """The configuration of the architecture's tiny network, with `overrides` applied."""
    return architecture.config_class(**{**tiny_fields(architecture), **overrides})
