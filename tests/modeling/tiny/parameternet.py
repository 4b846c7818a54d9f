"""GhostNet's layers with three experts, an odd number."""

from .ghostnet import GHOSTNET

TINY = {"parameternet": {**GHOSTNET, "width_multiplier": 1.0, "num_experts": 3}}
