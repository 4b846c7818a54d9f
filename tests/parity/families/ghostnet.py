"""GhostNet, GhostNetV2, GhostNetV3: evaluation, training, the fused layout, the distillation loss."""

import re

import torch
from torch.nn import functional as F

from hf_effmodels.training.losses.soft_targets import soft_target_loss

from ..classification import ClassifierCase
from ..golden import inputs

SYSTEMS = ("ghostnet", "ghostnetv2", "ghostnetv3")


class GhostNetCase(ClassifierCase):
    def configuration(self) -> dict:
        published = dict(self.case["config"])
        configuration = {"width_multiplier": float(published["width"]), "num_labels": published["num_classes"]}
        if "num_conv_branches" in published:
            configuration["num_conv_branches"] = published["num_conv_branches"]
        if "dropout" in published:
            configuration["classifier_dropout"] = float(published["dropout"])
        return configuration

    def our_module(self, path: str):
        if re.fullmatch(r"blocks\.[0-8]", path):
            # A list of the official blocks: its output is that of the last one, which is the only or the last block
            # of a stage, or the strided block a stage begins with.
            stage = self.model.base_model.stages[(int(path[-1]) + 1) // 2]
            return stage.blocks[0] if int(path[-1]) % 2 else stage.blocks[-1]
        return super().our_module(path)

    def feature(self, path: str, outputs) -> torch.Tensor | None:
        if path == "blocks.9":
            return outputs.hidden_states_of_base.last_hidden_state
        return None


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if "state_dict" in case and case["state_dict"]:
        return GhostNetCase(case, dtype).outputs()
    return _distillation_loss(case, dtype)


def _distillation_loss(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = inputs(case, dtype)
    student = values["student_logits"].requires_grad_()
    config = case["config"]
    cross_entropy = F.cross_entropy(student, values["labels"], label_smoothing=config["label_smoothing"])
    distillation = soft_target_loss(student, values["teacher_logits"], config["temperature"])
    loss = cross_entropy + distillation
    loss.backward()
    return {"loss_ce": cross_entropy, "loss_kd": distillation, "loss": loss, "grad/student_logits": student.grad}
