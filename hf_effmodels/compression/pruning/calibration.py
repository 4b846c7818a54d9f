"""What a model does on a few batches of text: its loss, gradients, and how much energy each channel has."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

#: A batch is what the model's forward takes, with labels; or the token ids alone.
Batch = Mapping[str, torch.Tensor] | torch.Tensor


def read_batches(
    batches: Iterable[Batch] | None, purpose: str, name: str = "calibration"
) -> list[dict[str, torch.Tensor]]:
    """Batches as the model takes them; `name` is what messages call them.

    Raises:
        ValueError: there are none, or one has neither labels nor token ids, which are labels, too.
    """
    prepared = []
    for batch in () if batches is None else batches:
        batch = {"input_ids": batch} if isinstance(batch, torch.Tensor) else dict(batch)
        if "labels" not in batch and "input_ids" not in batch:
            raise ValueError(f"{name}: got a batch of {', '.join(batch)}, accepted are those with labels.")
        prepared.append(batch if "labels" in batch else {"labels": batch["input_ids"], **batch})
    if not prepared:
        raise ValueError(f"{name}: there are no batches, {purpose} needs some.")
    return prepared


def loss_of(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return model(**as_taken(model, batch), use_cache=False).loss


def as_taken(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch where the model is; what has a fraction is in its precision."""
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in batch.items()
    }


def in_single_precision(model: PreTrainedModel) -> PreTrainedModel:
    """The model, or a copy in float32 of one with weights in half precision: for what follows its gradients or changes
    it in small steps, which half precision takes for nothing."""
    halves = (torch.float16, torch.bfloat16)
    if not any(weight.dtype in halves for weight in model.parameters()):
        return model
    return copy.deepcopy(model).float()


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> float:
    with evaluating(model):
        loss = sum(loss_of(model, batch).double().item() for batch in batches) / len(batches)
    if not math.isfinite(loss):
        raise ValueError(f"calibration: the model's loss on these batches is {loss}.")
    return loss


def mean_gradients(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Gradient of the loss for each weight, averaged over the batches, in float32 at least."""
    model = in_single_precision(model)
    weights = dict(model.named_parameters())
    required = {name: weight.requires_grad for name, weight in weights.items()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                gradients = torch.autograd.grad(loss_of(model, batch), [*weights.values()], allow_unused=True)
                for name, gradient in zip(weights, gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient / len(batches)
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(required[name])
    return total


def layer_importance(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """(layers,): by how much the loss rises when a layer is left out."""
    decoder = model.base_model
    layers = decoder.layers
    whole = mean_loss(model, batches)
    rises = []
    for left_out in range(len(layers)):
        try:
            decoder.layers = nn.ModuleList(layer for number, layer in enumerate(layers) if number != left_out)
            decoder.config.num_hidden_layers = len(decoder.layers)
            rises.append(mean_loss(model, batches) - whole)
        finally:
            decoder.layers = layers
            decoder.config.num_hidden_layers = len(layers)
    return torch.tensor(rises)


@torch.no_grad()
def channel_energies(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Mean square of each channel at the input of each norm, by the norm's name: (hidden,) float64."""
    norms = norms_of(model)
    energies = {name: torch.zeros(norm.weight.shape[0], dtype=torch.float64) for name, norm in norms.items()}

    def watch(name):
        def hook(module, args):
            energies[name] += args[0].double().square().flatten(0, -2).mean(0).cpu() / len(batches)

        return hook

    handles = [norm.register_forward_pre_hook(watch(name)) for name, norm in norms.items()]
    try:
        mean_loss(model, batches)
    finally:
        for handle in handles:
            handle.remove()
    return energies


def norms_of(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The norms of the residual stream by name: all but those of queries and keys."""
    named = model.named_modules()
    return {name: module for name, module in named if name.endswith("norm") and ".self_attn." not in name}


@contextmanager
def evaluating(model: nn.Module):
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
