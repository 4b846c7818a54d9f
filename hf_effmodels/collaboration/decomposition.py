"""One classifier as several small vision transformers, each for some of the classes and on a device of its own (DeViT,
https://arxiv.org/abs/2309.05015)."""

import copy
import math
import random
from collections.abc import Iterable, Sequence

import torch
from transformers import (
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTForImageClassification,
)

from .._numbers import as_index, check_whole, is_whole
from ..modeling.devit.configuration_devit import DeViTConfig, part_sizes
from ..modeling.devit.modeling_devit import DeViTForImageClassification

#: A DeiTForImageClassification has a distillation token and no classifier on it.
_STOCK = (ViTForImageClassification, DeiTForImageClassificationWithTeacher)


def split_classes(num_classes: int, parts: int = 4, seed: int = 42) -> list[list[int]]:
    """Classes in groups of the same size, as nearly as can be: shuffled as the official code does, and cut.

    Raises:
        ValueError: fewer classes than parts.
    """
    check_whole(1, num_classes=num_classes)
    if not is_whole(parts, 1, num_classes):
        raise ValueError(f"parts: got {parts!r}, accepted are 1 to the number of classes, {num_classes}.")
    order = list(range(num_classes))
    random.Random(seed).shuffle(order)
    return [order[i * num_classes // parts : (i + 1) * num_classes // parts] for i in range(parts)]


def check_class_groups(groups: Sequence[Sequence[int]], num_classes: int) -> None:
    """Raise ValueError unless each class is in exactly one group."""
    check_whole(1, num_classes=num_classes)
    listed = [
        list(group) if isinstance(group, Iterable) and not isinstance(group, str) else [None] for group in groups
    ]
    if not all(is_whole(as_index(number), -math.inf) for group in listed for number in group):
        raise ValueError(
            f"class_groups: got {list(groups)!r}, accepted is for each part a list of numbers of classes."
        )
    given = sorted(number for group in listed for number in group)
    if given != list(range(num_classes)):
        missing = sorted(set(range(num_classes)) - set(given))
        more = sorted({n for n in given if given.count(n) > 1 or not 0 <= n < num_classes})
        raise ValueError(
            f"class_groups: missing are {missing[:10]}, unknown or given twice {more[:10]}; accepted are groups in "
            f"which each of the {num_classes} classes stands once."
        )


@torch.no_grad()
def from_transformers(model: PreTrainedModel) -> DeViTForImageClassification:
    """A ViT or DeiT classifier of transformers as a DeViT of one part, with the same logits: what can be pruned.

    Raises:
        ValueError: a model of another class.
    """
    if type(model) not in _STOCK:
        accepted = ", ".join(c.__name__ for c in _STOCK)
        raise ValueError(f"model: got {type(model).__name__}, accepted are {accepted}.")
    stock = model.config
    two_heads = isinstance(model, DeiTForImageClassificationWithTeacher)
    sizes = part_sizes(stock.hidden_size, stock.num_hidden_layers, stock.num_attention_heads)
    config = DeViTConfig(
        part_type="deit" if two_heads else "vit",
        parts=[{**sizes, "intermediate_sizes": [stock.intermediate_size] * stock.num_hidden_layers}],
        image_size=stock.image_size,
        num_channels=stock.num_channels,
        patch_size=stock.patch_size,
        qkv_bias=stock.qkv_bias,
        hidden_act=stock.hidden_act,
        layer_norm_eps=stock.layer_norm_eps,
        id2label=stock.id2label,
        label2id=stock.label2id,
    )
    base, weights = model.base_model, {}

    def take(ours: str, module: torch.nn.Module) -> None:
        weights.update({f"{ours}.{name}": value for name, value in module.state_dict().items()})

    for name in ("cls_token", "distillation_token", "position_embeddings"):
        if hasattr(base.embeddings, name):
            weights[f"devit.parts.0.embeddings.{name}"] = getattr(base.embeddings, name)
    take("devit.parts.0.embeddings.projection", base.embeddings.patch_embeddings.projection)
    take("devit.parts.0.norm", base.layernorm)
    for number, layer in enumerate(base.layers):
        ours = f"devit.parts.0.layers.{number}"
        take(f"{ours}.norm_before", layer.layernorm_before)
        take(f"{ours}.norm_after", layer.layernorm_after)
        take(f"{ours}.mlp", layer.mlp)
        take(f"{ours}.attention.proj", layer.attention.o_proj)
        projections = [getattr(layer.attention, f"{letter}_proj").state_dict() for letter in "qkv"]
        for name in projections[0]:
            weights[f"{ours}.attention.qkv.{name}"] = torch.cat([p[name] for p in projections])
    take("fusion.classifiers.cls", model.cls_classifier if two_heads else model.classifier)
    if two_heads:
        take("fusion.classifiers.distillation", model.distillation_classifier)
    return _with_weights(config, weights, model)


def take_part(model: DeViTForImageClassification, part: int) -> DeViTForImageClassification:
    """One part as a model by itself, for its device: what it sends is the same. Its classifier sees the columns of its
    own tokens where the fusion is one layer, and is new where there are two.

    Raises:
        ValueError: a part that is not there.
    """
    check_whole(0, len(model.config.parts) - 1, part=as_index(part))
    config = copy.deepcopy(model.config)
    config.parts, config.class_groups = [config.parts[part]], None
    config.fusion_hidden_size = None
    config.set_stages()
    taken = DeViTForImageClassification(config).to(model.device, model.dtype)
    taken.devit.parts[0].load_state_dict(model.devit.parts[part].state_dict())
    if model.fusion.hidden is None:
        start = sum(model.fusion.widths[:part])
        for name, classifier in taken.fusion.classifiers.items():
            whole = model.fusion.classifiers[name]
            with torch.no_grad():
                classifier.weight.copy_(whole.weight[:, start : start + model.fusion.widths[part]])
                classifier.bias.copy_(whole.bias)
    return taken.train(model.training)


def keep_classes(model: DeViTForImageClassification, classes: Sequence[int]) -> DeViTForImageClassification:
    """The same network with a classifier for some of its classes, in this order; their logits are what they were.

    Raises:
        ValueError: fewer than two classes, or one that is not there or stands twice.
    """
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    known = all(is_whole(as_index(number), 0, len(names) - 1) for number in classes)
    if not known or len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(
            f"classes: got {list(classes)}, accepted are two and more different numbers from 0 to {len(names) - 1}."
        )
    weights, numbers = model.state_dict(), torch.tensor(list(classes), device=model.device)
    for name in weights:
        if name.startswith("fusion.classifiers."):
            weights[name] = weights[name].index_select(0, numbers)
    config = copy.deepcopy(model.config)
    config.id2label = {new: names[old] for new, old in enumerate(classes)}
    config.label2id = {name: number for number, name in config.id2label.items()}
    return _with_weights(config, weights, model)


def assemble(
    parts: Sequence[DeViTForImageClassification],
    num_labels: int,
    *,
    class_groups: Sequence[Sequence[int]] | None = None,
    fusion_hidden_size: int | None = None,
) -> DeViTForImageClassification:
    """Models of one part each as one DeViT, with a new fusion that has to be trained.

    Args:
        parts: of one kind, for images of one size; their classifiers are dropped.
        num_labels: classes of the whole.
        class_groups: the classes of each part; each class stands once.
        fusion_hidden_size: width of the teacher's tokens, for a fusion of two layers.

    Raises:
        ValueError: parts that differ in more than their sizes, or groups that do not cover the classes.
    """
    if not parts or any(len(part.config.parts) != 1 for part in parts):
        raise ValueError("parts: accepted are models of one part each, one and more of them.")
    check_whole(1, num_labels=num_labels)
    if fusion_hidden_size is not None:
        check_whole(1, fusion_hidden_size=fusion_hidden_size)
    first = parts[0].config
    for name in ("part_type", "image_size", "num_channels", "patch_size", "qkv_bias", "layer_norm_eps", "hidden_act"):
        values = {getattr(part.config, name) for part in parts}
        if len(values) > 1:
            raise ValueError(f"parts: they have the {name} {', '.join(map(str, sorted(values)))}, accepted is one.")
    if class_groups is not None:
        check_class_groups(class_groups, num_labels)
    given = first.to_dict()
    for name in ("id2label", "label2id", "num_labels", "architectures"):
        given.pop(name, None)
    given |= {"parts": [part.config.parts[0] for part in parts], "fusion_hidden_size": fusion_hidden_size}
    given |= {"class_groups": None if class_groups is None else [list(group) for group in class_groups]}
    whole = DeViTForImageClassification(DeViTConfig(**given, num_labels=num_labels))
    whole = whole.to(parts[0].device, parts[0].dtype)
    for ours, part in zip(whole.devit.parts, parts, strict=True):
        ours.load_state_dict(part.devit.parts[0].state_dict())
    return whole.train(parts[0].training)


@torch.no_grad()
def merge_fusion(model: DeViTForImageClassification) -> DeViTForImageClassification:
    """The same logits with one linear layer in the fusion where there were two: nothing stands between them."""
    if model.fusion.hidden is None:
        return model
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("fusion.")}
    for name, last in model.fusion.classifiers.items():
        hidden = model.fusion.hidden[name]
        weights[f"fusion.classifiers.{name}.weight"] = last.weight @ hidden.weight
        weights[f"fusion.classifiers.{name}.bias"] = last.weight @ hidden.bias + last.bias
    config = copy.deepcopy(model.config)
    config.fusion_hidden_size = None
    return _with_weights(config, weights, model)


def _with_weights(config: DeViTConfig, weights: dict, like: PreTrainedModel) -> DeViTForImageClassification:
    with torch.device("meta"):
        model = DeViTForImageClassification(config)
    model.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, assign=True)
    return model.requires_grad_(True).train(like.training)
