"""HSAKD, the published code behind LSSKD: rotations, losses, heads on two networks for small images."""

import re

import torch
from torch import nn
from torch.nn import functional as F

from hf_effmodels.training.losses.joint_heads import JointHeads, remaining_stages
from hf_effmodels.training.losses.joint_labels import (
    class_logits,
    joint_label_loss,
    joint_labels,
    joint_teacher_loss,
    rotated,
)

from .. import golden

SYSTEMS = ("lsskd",)


class _ResNetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride > 1 or channels != out_channels:
            conv = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x):
        residual = x if self.downsample is None else self.downsample(x)
        return F.relu(residual + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class _ResNet(nn.Module):
    """For 32×32 images, of 6n + 2 layers."""

    def __init__(self, config: dict):
        super().__init__()
        widths, depth = config["widths"], (config["depth"] - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for number in (1, 2, 3):
            first = _ResNetBlock(widths[number - 1], widths[number], 1 if number == 1 else 2)
            more = [_ResNetBlock(widths[number], widths[number], 1) for _ in range(depth - 1)]
            setattr(self, f"layer{number}", nn.Sequential(first, *more))
        self.fc = nn.Linear(widths[3], config["num_classes"])
        self.finish = None

    def stages(self):
        return [self.layer1, self.layer2, self.layer3]

    def stem(self, x):
        return F.relu(self.bn1(self.conv1(x)))


class _WideBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        same = channels == out_channels
        self.convShortcut = None if same else nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x):
        hidden = F.relu(self.bn1(x))
        residual = x if self.convShortcut is None else self.convShortcut(hidden)
        return residual + self.conv2(F.relu(self.bn2(self.conv1(hidden))))


class _WideStage(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class _WideResNet(nn.Module):
    """For 32×32 images, of 6n + 4 layers; norm and activation come before the convolutions."""

    def __init__(self, config: dict):
        super().__init__()
        depth = (config["depth"] - 4) // 6
        widths = [16, *(16 * 2**number * config["widen_factor"] for number in range(3))]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for number in (1, 2, 3):
            first = _WideBlock(widths[number - 1], widths[number], 1 if number == 1 else 2)
            more = [_WideBlock(widths[number], widths[number], 1) for _ in range(depth - 1)]
            setattr(self, f"block{number}", _WideStage([first, *more]))
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], config["num_classes"])

    @property
    def finish(self):
        return nn.Sequential(self.bn1, nn.ReLU())

    def stages(self):
        return [self.block1, self.block2, self.block3]

    def stem(self, x):
        return self.conv1(x)


def _network(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    network = (_WideResNet if "widen_factor" in config else _ResNet)(config)
    transforms = config["joint_classes"] // config["num_classes"]
    heads = JointHeads(
        remaining_stages(network.stages()),
        network.fc.in_features,
        config["num_classes"],
        transforms=transforms,
        finish=network.finish,
    )

    def ours(name: str) -> str:
        name = re.sub(r"block_extractor(\d)\.", lambda m: f"extractors.{int(m[1]) - 1}.", name)
        name = re.sub(r"\bbn(\d)\.", lambda m: f"finish.{int(m[1]) - 1}.0.", name) if name.startswith("bn") else name
        return re.sub(r"^fc(\d)\.", lambda m: f"classifiers.{int(m[1]) - 1}.", name)

    weights = golden.state_dict(case, dtype)
    for module, prefix, rename in ((network, "backbone.", str), (heads, "auxiliary_classifier.", ours)):
        own = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
        lost = module.to(dtype).load_state_dict({rename(n): v for n, v in own.items()}, strict=False)
        assert not lost.unexpected_keys and all("num_batches_tracked" in n for n in lost.missing_keys), lost

    def forward(pixels, detach=False):
        hidden, features = network.stem(pixels), []
        for stage in network.stages():
            hidden = stage(hidden)
            features.append(hidden)
        hidden = hidden if network.finish is None else network.finish(hidden)
        return features, network.fc(hidden.mean((2, 3))), heads(features, detach=detach)[0]

    network.eval(), heads.eval()
    with torch.no_grad():
        features, logits, joint = forward(values["pixel_values"])
    results = {"logits": logits}
    results |= {f"feature_{n}": f for n, f in enumerate(features)} | {
        f"joint_logits_{n}": j for n, j in enumerate(joint)
    }
    network.train(), heads.train()
    labels = torch.tensor(config["labels"])
    for prefix, detach in (("train.", False), ("train.detached.", True)):
        network.zero_grad(), heads.zero_grad()
        _, logits, joint = forward(rotated(values["pixel_values"]), detach)
        loss = sum(joint_label_loss(logits, joint, labels, transforms).values())
        loss.backward()
        results |= {f"{prefix}logits": logits, f"{prefix}loss": loss[None]}
        results |= {f"{prefix}joint_logits_{n}": j for n, j in enumerate(joint)}
        for module, name, rename in ((network, "backbone.", str), (heads, "auxiliary_classifier.", ours)):
            for wanted in case["outputs"]:
                if wanted.startswith(f"{prefix}grad.{name}"):
                    parameter = module.get_parameter(rename(wanted.removeprefix(f"{prefix}grad.{name}")))
                    results[wanted] = parameter.grad.clone()
    return results


def _losses(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, labels = case["config"], torch.tensor(case["config"]["labels"])
    temperature, results = config["temperature"], {}

    def of(who: str, values: dict):
        return values[f"{who}_logits"], [values[f"{who}_joint_logits_{n}"] for n in range(config["heads"])]

    for name in ("label_loss", "teacher_student", "mutual"):
        values = {n: v.requires_grad_() for n, v in golden.inputs(case, dtype).items()}
        (logits, joint), (other, other_joint) = of("student", values), of("other", values)
        transforms = joint[0].shape[1] // logits.shape[1]
        own = joint_label_loss(logits, joint, labels, transforms)
        if name == "label_loss":
            loss = own["task"] + own["joint"]
        elif name == "teacher_student":
            divergence = joint_teacher_loss(logits, joint, other, other_joint, temperature=temperature)
            results |= {f"{name}.cls": own["task"][None], f"{name}.div": divergence[None]}
            loss = own["task"] + divergence
        else:
            theirs = joint_label_loss(other, other_joint, labels, transforms)
            learnt = sum(own.values()) + sum(theirs.values())
            divergence = joint_teacher_loss(logits, joint, other, other_joint, temperature=temperature)
            divergence = divergence + joint_teacher_loss(other, other_joint, logits, joint, temperature=temperature)
            results |= {f"{name}.cls": learnt[None], f"{name}.div": divergence[None]}
            loss = learnt + divergence
        loss.backward()
        results |= {name: loss[None], f"{name}.grad_logits": logits.grad}
        results |= {f"{name}.grad_joint_{n}": head.grad for n, head in enumerate(joint) if head.grad is not None}
        results |= {f"{name}.grad_other_joint_{n}": h.grad for n, h in enumerate(other_joint) if h.grad is not None}
        results[f"{name}.grad_joint_last"] = joint[-1].grad
    results["class_logits_of_joint_0"] = class_logits(values["student_joint_logits_0"].detach(), transforms)
    return results


def _rotation(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    turned = rotated(golden.inputs(case, dtype)["pixel_values"])
    labels = joint_labels(torch.tensor(config["labels"]), config["rotations"])
    return {"rotated": turned, "rotated_corner": turned[:, :, 0], "joint_labels": labels}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if case["variant"] in ("rotation", "losses"):
        return {"rotation": _rotation, "losses": _losses}[case["variant"]](case, dtype)
    return _network(case, dtype)


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    """Gradients of the first layer in single precision, as elsewhere: nearly dead channels pass batch norms."""
    return 5e-2 if dtype == "float32" and ".grad." in name else None
