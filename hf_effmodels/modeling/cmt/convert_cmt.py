"""Official CMT checkpoints (FastMIM's fine-tuned ones) -> ours."""

import re

from ..layers.cmt_names import RULES as _NAMES
from .configuration_cmt import CmtConfig

IGNORED = re.compile(r"(^|\.)total_(ops|params)$")

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    *_NAMES,
    (r"^_fc\b", "head_conv.conv"),
    (r"^_bn\b", "head_conv.norm"),
    (r"^head\b", "classifier"),
)


def adapt(weights: dict, config: CmtConfig) -> CmtConfig:
    """The configuration of the checkpoint's layout: there is only one."""
    return config
