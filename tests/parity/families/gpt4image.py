"""GPT4Image: the alignment losses, over several processes too, and both heads on their networks."""

import re

import torch
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels.training.losses.text_alignment import TextProjection, text_alignment_loss

from .. import golden

SYSTEMS = ("gpt4image",)

_DEPTHS = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3], "resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}


def _loss(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    image = values["image_proj"]
    text = F.normalize(F.normalize(values["text_raw"], dim=-1) + 0.6 * F.normalize(image, dim=-1), dim=-1)
    first = config["rank"] * config["local_batch"]
    own = image[first : first + config["local_batch"]].clone().requires_grad_()
    rows = torch.cat([image[:first], own, image[first + config["local_batch"] :]])
    loss = text_alignment_loss(rows, text, kind=config["loss_type"], temperature=config["tau"])
    loss.backward()
    return {"text_embeddings": text, "loss": loss[None], "grad:image_proj_local": own.grad}


def _head(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    head = TextProjection(config["embed_dim"], config["proj_dim"], kind=config["proj_type"], norm=False).to(dtype)
    head.load_state_dict(_projection(golden.state_dict(case, dtype), config))
    return {"projected": head(golden.inputs(case, dtype)["cls_feature"])}


def _projection(weights: dict, config: dict) -> dict:
    """The head's weights; the official linear head is a layer and no list."""
    inner = "0." if config["proj_type"] == "linear" else ""
    found = {name: value for name, value in weights.items() if name.startswith("proj_layer.")}
    return {inner + name.removeprefix("proj_layer."): value for name, value in found.items()}


def _transformers_name(name: str) -> str:
    """torchvision's name of a ResNet's tensor as transformers calls it."""
    for pattern, replacement in (
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^fc\.", "classifier.1."),
        (r"^layer(\d)\.(\d+)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
        (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
        (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _resnet(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    weights, basic = golden.state_dict(case, dtype), config["arch"] in ("resnet18", "resnet34")
    model = ResNetForImageClassification(
        ResNetConfig(
            depths=_DEPTHS[config["arch"]],
            hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
            layer_type="basic" if basic else "bottleneck",
            num_labels=config["num_labels"],
        )
    ).to(dtype)
    renamed = {_transformers_name(n.removeprefix("model.")): v for n, v in weights.items() if n.startswith("model.")}
    lost = model.load_state_dict(renamed, strict=False)
    assert not lost.unexpected_keys and all("num_batches_tracked" in name for name in lost.missing_keys)
    width = model.classifier[1].in_features
    head = TextProjection(width, config["proj_dim"], kind=config["proj_type"]).to(dtype)
    head.load_state_dict(_projection(weights, config), strict=False)
    text = F.normalize(values["text_raw"], dim=-1)

    def forward():
        pooled = model.resnet(values["pixel_values"]).pooler_output.flatten(1)
        return head(pooled), model.classifier(pooled)

    model.eval(), head.eval()
    with torch.no_grad():
        projected, logits = forward()
    results = {"eval:projected": projected, "eval:logits": logits}
    model.train(), head.train()
    projected, logits = forward()
    cross_entropy = F.cross_entropy(logits, values["labels"])
    aligned = text_alignment_loss(projected, text, kind=config["loss_type"], temperature=config["tau"])
    total = cross_entropy + config["lamb"] * aligned
    total.backward()
    results |= {"train:projected": projected, "train:logits": logits, "train:text_loss": aligned[None]}
    results |= {"train:ce_loss": cross_entropy[None], "train:total_loss": total[None]}
    parameters = dict(model.named_parameters())
    for name in case["outputs"]:
        kind, _, key = name.partition(":")
        if name == "grad:proj_layer_last.weight":
            results[name] = head[-1].weight.grad
        elif kind == "grad":
            results[name] = parameters[_transformers_name(key.removeprefix("model."))].grad
        elif kind == "after_train" and key.startswith("proj_layer."):
            results[name] = head.get_buffer(key.removeprefix("proj_layer."))
        elif kind == "after_train":
            results[name] = model.get_buffer(_transformers_name(key.removeprefix("model.")))
    return results


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if "arch" in case["config"]:
        return _resnet(case, dtype)
    return _head(case, dtype) if "proj_type" in case["config"] else _loss(case, dtype)
