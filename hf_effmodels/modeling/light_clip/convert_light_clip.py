"""There are no official LightCLIP files. What is read is this project's own layout, and that of transformers' CLIP:
its text tower is the same and, with a CLIP image tower, everything else."""

import re

from .configuration_light_clip import LightClipConfig

#: What only trains a model, and the positions that old files hold.
IGNORED = re.compile(
    r"^(fusions|mlm_head|patch_projection|word_projection)\.|^mask_embedding$|\.position_ids$|(^|\.)total_(ops|params)$"
)

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Older transformers had the parts of the towers one level deeper.
RULES = ((r"^(text_model|vision_model)\.(text_model|vision_model)\.", r"\1."),)


def adapt(state_dict: dict, config: LightClipConfig) -> LightClipConfig:
    """The configuration of the checkpoint's layout: there is only one."""
    return config
