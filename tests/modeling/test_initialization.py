"""Whatever a checkpoint lacks begins as in a network without a checkpoint: transformers asks for it module by module,
and for none whose own weights are all there."""

import copy
import math
from collections import defaultdict

import pytest
import torch
from transformers import ResNetConfig, ViTConfig

from hf_effmodels import (
    FastMimConfig,
    FastMimForPreTraining,
    LocalMimConfig,
    LocalMimForPreTraining,
    SimMimConfig,
    SimMimForPreTraining,
    SparkConfig,
    SparkForPreTraining,
)
from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config

PATCHES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES |= {"image_size": 64, "patch_size": 16}
CONVOLUTIONS = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "layer_type": "basic"}
MASKED = {
    "simmim": lambda: SimMimForPreTraining(SimMimConfig(backbone_config=ViTConfig(**PATCHES))),
    "fastmim": lambda: FastMimForPreTraining(
        FastMimConfig(backbone_config=ViTConfig(**PATCHES), image_size=64, decoder_hidden_size=32)
    ),
    "localmim": lambda: LocalMimForPreTraining(
        LocalMimConfig(backbone_config=ViTConfig(**{**PATCHES, "num_hidden_layers": 12}), decoder_hidden_size=32)
    ),
    "spark": lambda: SparkForPreTraining(
        SparkConfig(backbone_config=ResNetConfig(**CONVOLUTIONS), image_size=64, decoder_hidden_size=32)
    ),
}
#: Of several heads those that train, and know the most parts.
HEADS = ("AutoModelForPreTraining", "AutoModelForImageTextToText", "AutoModelForImageClassification")


def build(architecture):
    if architecture.model_type in MASKED:
        return MASKED[architecture.model_type]()
    head = next((name for name in HEADS if name in architecture.auto_classes), architecture.tasks[0].auto_class)
    return architecture.model_class(head)(tiny_config(architecture))


def places(model) -> dict[str, tuple[bool, tuple]]:
    """Name of each weight -> whether it lies in a module with further ones below, and its kind: the classes of that
    module and the one around it."""
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner, _, own = name.rpartition(".")
        module, around = model.get_submodule(owner), model.get_submodule(owner.rpartition(".")[0])
        if tensor.is_floating_point():
            composed = any(True for child in module.children() for _ in child.parameters())
            constant = tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())
            found[name] = composed, (type(around).__name__, type(module).__name__, own, constant)
    return found


def spread(tensors) -> tuple[float, float, int]:
    values = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    return values.mean().item(), values.std(correction=0).item(), values.numel()


LACKING = {
    "what composed modules have": lambda composed: composed,
    "layers": lambda composed: not composed,
}


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.model_type)
def test_what_a_checkpoint_lacks_begins_as_without_one(architecture, lacking):
    fresh = build(architecture)
    assert not differing(fresh, {name for name, (composed, _) in places(fresh).items() if LACKING[lacking](composed)})


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.model_type)
def test_what_a_folded_checkpoint_lacks_begins_as_without_one(architecture):
    """Factors and shifts that stand for a norm, too."""
    if architecture.model_type in (*MASKED, "light_clip") or not hasattr(tiny_config(architecture), "reparameterized"):
        return  # what folds in them is a network by itself
    head = next((name for name in HEADS if name in architecture.auto_classes), architecture.tasks[0].auto_class)
    fresh = architecture.model_class(head)(tiny_config(architecture, reparameterized=True))
    first, *others = places(fresh)
    assert not differing(fresh, set(others))


def differing(fresh, missing: set[str]) -> list[str]:
    """Weights that begin otherwise than in `fresh` where a checkpoint of it lacks those `missing`."""
    state, known = fresh.state_dict(), places(fresh)
    kept = {name: value for name, value in state.items() if name not in missing}
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)  # what nothing fills is NaN
    try:
        loaded = (
            type(fresh)
            .from_pretrained(None, config=copy.deepcopy(fresh.config), state_dict=kept, dtype=torch.float32)
            .state_dict()
        )
    finally:
        torch.use_deterministic_algorithms(False)
    kinds = defaultdict(list)
    for name in missing:
        kinds[known[name][1]].append(name)
    wrong = []
    for kind, names in kinds.items():
        (mean, deviation, count), (got_mean, got, _) = (spread([s[n] for n in names]) for s in (state, loaded))
        off = 6 * max(deviation, got, abs(mean) if count < 16 else 0) / math.sqrt(count)
        if not (abs(got_mean - mean) <= off + 1e-6 and abs(got - deviation) <= off + 0.1 * deviation + 1e-6):
            wrong.append(f"{names[0]} {kind}: {mean:.3g} ± {deviation:.3g}, got {got_mean:.3g} ± {got:.3g}")
    return wrong
