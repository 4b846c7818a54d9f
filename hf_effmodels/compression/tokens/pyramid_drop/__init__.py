"""PyramidDrop: image tokens leave a vision-language model in stages (https://arxiv.org/abs/2410.17247).

    apply_pyramid_drop(model, layers=[8, 16, 24], ratios=[0.5, 0.25, 0.125])

makes any vision-language model of transformers whose decoder is one of `DECODERS` run with fewer image tokens the
deeper it goes; weights, checkpoints, processors, `generate`, pipelines and the Trainer stay what they are.
"""

from .apply import apply_pyramid_drop, remove_pyramid_drop
from .costs import PyramidCosts, pyramid_costs
from .settings import DECODERS, PyramidDropSettings
from .watching import Drop, watch_drops

__all__ = [
    "DECODERS",
    "Drop",
    "PyramidCosts",
    "PyramidDropSettings",
    "apply_pyramid_drop",
    "pyramid_costs",
    "remove_pyramid_drop",
    "watch_drops",
]
