"""How much a structure matters by what it says on a few batches, in forward passes alone (Minitron,
https://arxiv.org/abs/2407.14679, section 2)."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...training.losses.checks import exact
from .calibration import mean_loss, norms_of
from .structures import Axis, Sizes

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_SHORTCUT = re.compile(r"augmented_shortcuts\.(\d+)\.")


def aggregate(magnitudes: torch.Tensor) -> torch.Tensor:
    """(units,): of magnitudes (batch, tokens, units) the mean over the tokens, then √Σ² over the batch: what the paper
    found best of its aggregations."""
    return exact(magnitudes).mean(1).square().sum(0).sqrt()


def sum_of_squares(magnitudes: torch.Tensor) -> torch.Tensor:
    """(units,): square of `aggregate`, in double precision but for the mean, which is in single at least."""
    return exact(magnitudes).mean(1).double().square().sum(0).cpu()


def block_influence(hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
    """(layers,): 1 - the mean cosine between what goes into a layer and what comes out; 0 where it changes nothing.

    Args:
        hidden_states: what `output_hidden_states` gives but the norm at the end: (batch, tokens, width), of the
            embeddings and after each layer.
    """
    states = [exact(each) for each in hidden_states]  # a cosine of nearly 1 is 1 in half precision
    pairs = zip(states[:-1], states[1:], strict=True)
    return torch.stack([1 - F.cosine_similarity(before, after, dim=-1).mean() for before, after in pairs])


@torch.no_grad()
def activation_scores(
    model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]
) -> dict[Axis, torch.Tensor]:
    """Squares of `aggregate`, of each neuron, query head and channel, by axis (as `inheritance.axis_scores` has them).

    A neuron's magnitude is that of what enters the down projection, a head's the length of what it gives to the output
    projection, a channel's its magnitude after a norm, summed over all norms: the residual stream has one ranking. Key
    and value heads count by their query heads.

    Args:
        batches: what the model takes; sequences of one length, without padding.
    """
    sizes, totals, found = Sizes.of(model.config), {}, {}

    def add(axis: Axis, magnitudes: torch.Tensor) -> None:
        totals[axis] = totals.get(axis, 0) + sum_of_squares(magnitudes)

    def watch(axis: Axis, read):
        return lambda module, args: add(axis, read(args[0]))

    def heads(inputs: torch.Tensor) -> torch.Tensor:
        return exact(inputs).unflatten(-1, (-1, sizes.head_dim)).norm(dim=-1)

    def watch_norm(name: str):
        def keep(module, args, output):
            found[name] = found.get(name, 0) + sum_of_squares(output.abs())

        return keep

    handles = []
    for name, module in model.named_modules():
        layer = _LAYER.search(f"{name}.")
        if not isinstance(module, nn.Linear) or layer is None:
            continue
        number, shortcut = int(layer[1]), _SHORTCUT.search(f"{name}.")
        if name.endswith(("mlp.down_proj", "mlp.fc2")):
            handles.append(module.register_forward_pre_hook(watch(Axis("ffn", number), torch.abs)))
        elif name.endswith(("self_attn.o_proj", "self_attn.dense")):
            handles.append(module.register_forward_pre_hook(watch(Axis("queries", number), heads)))
        elif shortcut is not None and name.endswith("up_proj"):
            axis = Axis("bottleneck", number, int(shortcut[1]))
            handles.append(module.register_forward_pre_hook(watch(axis, torch.abs)))
    handles += [norm.register_forward_hook(watch_norm(name)) for name, norm in norms_of(model).items()]
    try:
        mean_loss(model, batches)
    finally:
        for handle in handles:
            handle.remove()
    totals[Axis("hidden")] = sum(squares.sqrt() for squares in found.values()).square()
    for number in range(sizes.num_hidden_layers):
        totals[Axis("keys", number)] = torch.zeros(sizes.num_key_value_heads, dtype=torch.float64)
    for axis, scores in totals.items():
        if not scores.isfinite().all():
            where = "" if axis.layer is None else f" of layer {axis.layer}"
            raise ValueError(f"model: what its {axis.kind}{where} say on the calibration batches is not finite.")
    return totals


@torch.no_grad()
def layer_influences(model: PreTrainedModel, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """(layers,): `block_influence` of each layer, the mean over the batches."""
    states, total = [], 0

    def keep(module, args, kwargs, output):
        before = args[0] if args else kwargs["hidden_states"]
        states.append((before, output[0] if isinstance(output, tuple) else output))

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in model.base_model.layers]
    try:
        for batch in batches:
            states.clear()
            mean_loss(model, [batch])
            total = total + torch.stack([block_influence(pair)[0].double().cpu() for pair in states])
    finally:
        for handle in handles:
            handle.remove()
    return total / len(batches)
