"""Two different activations in the series, and a bottleneck."""

from .decoders import DECODER

TINY = {"pangu_pi": {**DECODER, "series_activations": ["silu", "tanh"], "augmented_shortcut_reduction": 8}}
