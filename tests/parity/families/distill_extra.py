"""Manifold distillation, multi-granularity distillation, DeiT's distillation, stored soft labels."""

import re

import numpy as np
import torch
from torch.nn import functional as F

from hf_effmodels.training.losses.manifold import manifold_loss
from hf_effmodels.training.losses.multi_granularity import (
    image_level_loss,
    pixel_level_loss,
    region_level_loss,
    region_similarities,
)
from hf_effmodels.training.losses.stored_soft_labels import dense_targets, stored_soft_label_loss
from hf_effmodels.training.losses.token_distillation import token_distillation_loss

from .. import golden

SYSTEMS = ("distill_extra",)


def _manifold(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    layers = range(sum(name.startswith("student_") for name in values))
    students = [values[f"student_{layer}"].requires_grad_() for layer in layers]
    teachers = [values[f"teacher_{layer}"] for layer in layers]
    most, patches = config["max_patch_num"], min(students[0].shape[1], teachers[0].shape[1])
    if 0 < most < patches:
        patches = int(most**0.5) ** 2
    seed = int(re.search(r"RandomState\((\d+)\)", config["random_index"])[1])
    chosen = np.random.RandomState(seed).permutation(len(students[0]) * patches)[: config["K"]]
    parts = manifold_loss(
        students,
        teachers,
        sample_weight=config["w_sample"],
        patch_weight=config["w_patch"],
        random_weight=config["w_rand"],
        max_patches=most,
        chosen=torch.from_numpy(chosen),
    )
    sum(parts.values()).backward()
    results = {"loss_sample": parts["sample"], "loss_patch": parts["patch"], "loss_rand": parts["random"]}
    return results | {f"grad_student_{layer}": student.grad for layer, student in enumerate(students)}


def _multi_granularity(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, grid = golden.inputs(case, dtype), case["config"]["region_grid"]
    logits, features = values["teacher_logits"], values["teacher_feature"]
    results = {"similarity_student": region_similarities(values["student_feature"], grid)}
    for name, source, loss_of in (
        ("semantic", "student_logits", lambda s: image_level_loss(s, logits)),
        ("content", "student_feature", lambda s: region_level_loss(s, features, grid=grid)),
        ("consistency", "student_logits", lambda s: pixel_level_loss(s, logits)),
    ):
        student = values[source].clone().requires_grad_()
        loss = loss_of(student)
        loss.backward()
        results |= {name: loss, f"grad_{name}_{source}": student.grad}
    return results


def _token(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, results = golden.inputs(case, dtype), {}
    for s in case["config"]["settings"]:
        student = values["student_logits"].clone().requires_grad_()
        options = {"kind": s["kind"], "temperature": s["temperature"]}
        taught = token_distillation_loss(student, values["teacher_logits"], **options)
        loss = (1 - s["alpha"]) * F.cross_entropy(student, values["labels"]) + s["alpha"] * taught
        loss.backward()
        results |= {f"{s['name']}/loss": loss, f"{s['name']}/grad_student": student.grad}
    return results


def _stored(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    stored = values["teacher_logits"].softmax(-1).topk(config["topk"])
    results = {"index": stored.indices, "value": stored.values}
    for name, kept in (("full", stored.values), ("half", stored.values.half().to(dtype))):
        student = values["student_logits"].clone().requires_grad_()
        loss = stored_soft_label_loss(student, stored.indices, kept)
        loss.backward()
        soft = dense_targets(stored.indices, kept, config["num_classes"])
        results |= {f"{name}/soft": soft, f"{name}/loss": loss, f"{name}/grad_student": student.grad}
    return results


_FUNCTIONS = {
    "manifold": _manifold,
    "mgd": _multi_granularity,
    "deit_distillation": _token,
    "sparse_soft_label": _stored,
}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _FUNCTIONS[case["config"]["function"]](case, dtype)
