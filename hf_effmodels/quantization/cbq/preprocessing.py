"""Coarse-to-fine pre-processing of a block: outliers of weights are cut, those of activations go to the layer before.

Which norm feeds which layers is seen in one call of the block; a fold stays only where the block's output does.
"""

import logging
from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call

from .capture import Call, first, run_block
from .configuration_cbq import CbqConfig
from .outliers import channel_scales, truncate

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]
#: Layers whose output another layer of the same block reads channel by channel.
_PAIRS = {"v_proj": "o_proj", "up_proj": "down_proj"}
#: What a fold may change of a block's output, as a share of its largest value: rounding in float32.
_ROUNDING = 1e-4


def truncated(state: State, layers: list[str], config: CbqConfig) -> State:
    """The block's state with the outliers of its layers' weights cut."""
    names = {f"{layer}.weight" for layer in layers}
    return {
        name: truncate(value, config.lambda1, config.lambda2, config.cfp_rounds) if name in names else value
        for name, value in state.items()
    }


def scaled(
    block: nn.Module,
    state: State,
    layers: list[str],
    largest: Mapping[str, torch.Tensor],
    states: torch.Tensor,
    call: Call,
    config: CbqConfig,
) -> tuple[State, dict[str, int]]:
    """The block's state with outlying channels divided in the layer before and multiplied in the layer's weight.

    Args:
        block: whose `forward` is tried; its own weights are not changed.
        state: its weights.
        layers: names of the layers to quantise.
        largest: the largest |x| of each input channel of each of them.
        states, call: a sample of the block's inputs.

    Returns:
        the state, and for each layer that is read from a scaled one how many channels were scaled.
    """
    groups = _fed_by_norms(block, state, layers, states, call) | _fed_by_layers(layers)
    expected = _output(block, state, states, call)
    scaled_channels: dict[str, int] = {}
    for source, readers in groups.items():
        if not all(reader in largest for reader in readers):
            continue  # an expert that no token has reached
        channels = torch.stack([largest[reader] for reader in readers]).amax(0)
        scales = channel_scales(channels, config.lambda1, config.lambda2, config.cfp_rounds)
        # Values that several heads share have fewer channels than the layer that reads them.
        if len(scales) != state[f"{source}.weight"].shape[0] or not (scales > 1).any():
            continue
        new = dict(state)
        for name in (f"{source}.weight", f"{source}.bias"):
            if new.get(name) is not None:
                new[name] = new[name] / scales.reshape(-1, *[1] * (new[name].ndim - 1))
        for reader in readers:
            new[f"{reader}.weight"] = new[f"{reader}.weight"] * scales
        difference = (_output(block, new, states, call) - expected).abs().max()
        if difference <= _ROUNDING * expected.abs().max():
            state = new
            scaled_channels |= dict.fromkeys(readers, int((scales > 1).sum()))
        else:
            logger.warning("%s: its channels cannot be scaled without changing the block; they stay.", source)
    return state, scaled_channels


def _output(block: nn.Module, state: State, states: torch.Tensor, call: Call) -> torch.Tensor:
    with torch.no_grad():
        return first(functional_call(block, state, (states, *call.args), call.kwargs))


def _fed_by_norms(block, state: State, layers: list[str], states, call: Call) -> dict[str, list[str]]:
    """Norm -> the layers that read exactly its output; none where a layer has not been called, which may read any."""
    made: dict[int, tuple[str, torch.Tensor]] = {}
    read: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if name in layers:
            handles.append(module.register_forward_pre_hook(lambda m, args, n=name: read.__setitem__(n, args[0])))
        elif isinstance(weight, torch.Tensor) and weight.ndim == 1:
            handles.append(
                module.register_forward_hook(lambda m, args, out, n=name: made.__setitem__(id(out), (n, out)))
            )
    try:
        _output(block, state, states, call)
    finally:
        for handle in handles:
            handle.remove()
    if unread := [layer for layer in layers if layer not in read]:
        logger.warning("the norms' channels stay: no token of the sample has reached %s.", ", ".join(unread[:3]))
        return {}
    groups: dict[str, list[str]] = {}
    for layer, tensor in read.items():
        if id(tensor) in made:
            groups.setdefault(made[id(tensor)][0], []).append(layer)
    return groups


def _fed_by_layers(layers: list[str]) -> dict[str, list[str]]:
    groups = {}
    for layer in layers:
        parent, _, own = layer.rpartition(".")
        reader = f"{parent}.{_PAIRS[own]}".lstrip(".") if own in _PAIRS else None
        if reader in layers:
            groups[layer] = [reader]
    return groups


def largest_inputs(block: nn.Module, layers: list[str], hidden: list[torch.Tensor], calls: list[Call]):
    """The largest |x| of each input channel of the layers, over all batches."""
    largest: dict[str, torch.Tensor] = {}

    def watch(name):
        def hook(module, args):
            now = args[0].detach().abs().flatten(0, -2).amax(0)
            largest[name] = torch.maximum(largest[name], now) if name in largest else now

        return hook

    handles = [block.get_submodule(name).register_forward_pre_hook(watch(name)) for name in layers]
    try:
        with torch.no_grad():
            for states, call in zip(hidden, calls, strict=True):
                run_block(block, states, call)
    finally:
        for handle in handles:
            handle.remove()
    return largest
