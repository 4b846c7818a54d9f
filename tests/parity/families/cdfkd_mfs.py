"""CDFKD-MFS: students and teachers, generators, the losses of both, the statistics of batch norms."""

import re

import torch

from hf_effmodels.hub.convert import convert_state_dict
from hf_effmodels.models import get_config
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.data_free import (
    batch_norm_gap,
    generator_from_official,
    statistics_gap,
    watched_gaps,
)
from hf_effmodels.training.data_free.generators import own_name
from hf_effmodels.training.losses.data_free import disagreement, head_losses
from hf_effmodels.training.losses.kl_divergence import kl_divergence_loss

from .. import golden

SYSTEMS = ("cdfkd_mfs",)


#: torchvision's ResNets, whose names transformers has, too.
_PRESETS = {"resnet18": "resnet18-224", "resnet34": "resnet34-224"}


def _model(variant: str, weights: dict, num_labels: int, heads: int | None = None):
    preset = _PRESETS.get(variant, variant)
    config = get_config(preset, num_labels=num_labels, **({} if heads is None else {"num_heads": heads}))
    return convert_state_dict(ARCHITECTURES["cdfkd_mfs"], config, weights)[0]


def _module(model, path: str) -> torch.nn.Module:
    """Our module that gives what the official module `path` gives."""
    base = model.cdfkd_mfs
    if path == "shared_conv":
        return base.stem
    if encoder := re.fullmatch(r"encoder(\d+)\.(\d+)", path):
        return base.encoders[int(encoder[1]) - 1][int(encoder[2])]
    if branch := re.fullmatch(r"layer4_2\.(\d+)", path):
        return base.branches[int(branch[1])]
    stage = base.stages[int(re.fullmatch(r"(?:shared_layer|layer|block)(\d+)(?:_[bt1])?", path)[1]) - 1]
    return stage.blocks[-2] if path.endswith("_b") else stage.blocks[-1]


def _network(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, kept = case["config"], {}
    model = _model(case["variant"], golden.state_dict(case, dtype), config["num_classes"], config.get("headers"))
    for name in case["outputs"]:
        if name.startswith("feature."):
            _module(model, name.removeprefix("feature.")).register_forward_hook(
                lambda module, args, output, name=name: kept.__setitem__(name, output.detach().clone())
            )
    with torch.no_grad():
        outputs = model(golden.inputs(case, dtype)["pixel_values"])
    logits, features = outputs.head_logits.transpose(0, 1), outputs.head_features.transpose(0, 1)
    if "headers" not in config:
        logits, features = logits[0], features[0]
    return {"logits": logits, "features": features, "ensemble": outputs.logits, **kept}


def _generator(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = generator_from_official(golden.state_dict(case, dtype)).train("train mode" in case["note"])
    with torch.no_grad():
        images = generator(golden.inputs(case, dtype)["z"])
    return {"images": images, "state.first_running_mean": generator.norm.running_mean}


def _generator_step(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, weights = case["config"], golden.state_dict(case, dtype)

    def part(prefix: str) -> dict:
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    generator = generator_from_official(part("generator.")).train()
    student = _model(config["student"], part("student."), config["num_classes"], config["num_t"]).train()
    images = generator(golden.inputs(case, dtype)["z"])
    logits = student(images).head_logits
    found = {"loss_g": [], "loss_bns": []}
    for number in range(config["num_t"]):
        teacher = _model(config["teacher"], part(f"teachers.{number}."), config["num_classes"])
        with watched_gaps(teacher) as gaps:
            expected = teacher(images).logits
        found["loss_g"].append(config["weight_g"] * disagreement(logits[:, number], expected, config["num_t"]))
        gap = statistics_gap(gaps, config["first_bn_rescale"])
        found["loss_bns"].append(config["weight_bns"] / config["num_t"] * gap)
    found = {name: torch.stack(values) for name, values in found.items()}
    (found["loss_g"].sum() + found["loss_bns"].sum()).backward()
    return {
        **found,
        "images": images,
        "student_logits": logits.transpose(0, 1),
        **{
            name: generator.get_parameter(own_name(name.removeprefix("grad.generator."))).grad
            for name in case["outputs"]
            if name.startswith("grad.generator.")
        },
    }


def _student_losses(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = case["config"], golden.inputs(case, dtype)

    def stacked(name: str) -> torch.Tensor:
        return torch.stack([values[f"{name}.{number}"] for number in range(config["num_t"])], dim=1)

    logits = stacked("student").requires_grad_()
    losses = head_losses(logits, stacked("teacher"), stacked("student_feat"), stacked("teacher_feat"))
    losses = {
        "loss_s": config["weight_s"] * losses["heads"],
        "loss_feat": config["weight_feat"] * losses["features"],
        "loss_ens": config["weight_ens"] * losses["ensemble"],
    }
    sum(losses.values()).backward()
    pair = values["student.0"], values["teacher.0"]
    temperatures = {name: re.fullmatch(r"kdloss_T([\d.]+)", name) for name in case["outputs"]}
    return {
        **losses,
        **{f"grad.student.{number}": logits.grad[:, number] for number in range(config["num_t"])},
        **{name: kl_divergence_loss(*pair, float(found[1])) for name, found in temperatures.items() if found},
    }


def _statistics(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    weights, values = golden.state_dict(case, dtype), golden.inputs(case, dtype)["x"].requires_grad_()
    loss = batch_norm_gap(values, weights["running_mean"], weights["running_var"])
    loss.backward()
    return {"loss": loss, "grad.x": values.grad}


_KINDS = {
    "Generator": _generator,
    "GeneratorLarge": _generator,
    "GeneratorLargeBN": _generator,
    "generator_step": _generator_step,
    "student_losses": _student_losses,
    "bn_statistics_loss": _statistics,
}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _KINDS.get(case["variant"], _network)(case, dtype)
