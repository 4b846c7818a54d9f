"""TinyNet: evaluation with stage features, training."""

import torch

from ..classification import ClassifierCase

SYSTEMS = ("tinynet",)
_FIELDS = {
    "resolution_multiplier": "resolution_multiplier",
    "width_multiplier": "width_multiplier",
    "depth_multiplier": "depth_multiplier",
    "num_classes": "num_labels",
    "dropout": "classifier_dropout",
    "drop_path": "drop_path_rate",
}


class TinyNetCase(ClassifierCase):
    def configuration(self) -> dict:
        published = self.case["config"]
        return {ours: published[theirs] for theirs, ours in _FIELDS.items() if theirs in published}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return TinyNetCase(case, dtype).outputs()
