"""ShuffleNetV2: evaluation with stage features, training. The cases are torchvision's own network."""

import torch

from ..classification import ClassifierCase

SYSTEMS = ("shufflenetv2",)


class ShuffleNetV2Case(ClassifierCase):
    def configuration(self) -> dict:
        published = self.case["config"]
        stem, *sizes, final = published["stages_out_channels"]
        return {
            "depths": published["stages_repeats"],
            "hidden_sizes": [stem, *sizes],
            "final_size": final,
            "num_labels": published["num_classes"],
        }


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return ShuffleNetV2Case(case, dtype).outputs()
