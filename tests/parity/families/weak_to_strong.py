"""Weak-to-strong: AdaptConf with and without its warm-up, AugConf along its ramp."""

import torch
from torch.nn import functional as F

from hf_effmodels.training.losses.adaptive_confidence import (
    adaptive_confidence_loss,
    auxiliary_confidence_loss,
    student_confidence,
)

from .. import golden

SYSTEMS = ("weak_to_strong",)


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, function = golden.inputs(case, dtype), case["config"]["function"]
    teacher = values["teacher_noise"] + 0.6 * values["student_logits"]
    agree = (teacher.argmax(1) == values["student_logits"].argmax(1)).double()
    results = {"teacher_logits": teacher, "agree": agree}
    for s in case["config"]["settings"]:
        student = values["student_logits"].clone().requires_grad_()
        times = {"epoch": s["epoch"], "epochs": s["epochs"]} if "epoch" in s else {}
        if function == "augconf":
            options = {"alpha": s["alpha_max"], "warmup": s["rate"], **times}
            parts = auxiliary_confidence_loss(student, teacher, temperature=s["temperature"], **options)
        else:
            options = {"tau": s["threshold"], "temperature": s["temperature"], **times}
            if "warmup_rate" in s:
                options["warmup"] = s["warmup_rate"]
            parts = adaptive_confidence_loss(student, teacher, **options)
            results[f"{s['name']}/beta"] = student_confidence(student, teacher, s["threshold"])
        loss = parts["teacher"] + parts["own"]
        name = s["name"]
        if f"{name}/loss_gt" in case["outputs"]:
            results[f"{name}/loss_gt"] = F.cross_entropy(student.detach(), values["labels"])
        loss.backward()
        results |= {
            f"{name}/loss_kd": parts["teacher"],
            f"{name}/loss_align": parts["own"],
            f"{name}/grad_student": student.grad,
        }
    return {name: value for name, value in results.items() if name in case["outputs"]}
