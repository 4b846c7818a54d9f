"""What each decoder block is given when the model reads the calibration samples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from .blocks import Blocks
from .store import BlockStore


class Call(NamedTuple):
    """The arguments of one call of a block beside its hidden states."""

    args: tuple
    kwargs: dict


class BlockInputs(NamedTuple):
    """Of each batch the hidden states that enter the first block, float32, and the other arguments of all blocks."""

    hidden: list[torch.Tensor]
    calls: list[list[Call]]


class _Stop(Exception):
    pass


@torch.no_grad()
def capture(
    model: PreTrainedModel, blocks: Blocks, store: BlockStore, batches: Sequence[Mapping[str, torch.Tensor]]
) -> BlockInputs:
    """Run the model on the batches.

    The whole model runs for the first two; if all blocks are given the same beside their hidden states, only the first
    block for the rest, as long as that is given the same, too.

    Raises:
        ValueError: a block does not go on from the output of the one before.
    """
    hidden, calls = [], []
    shared = False
    for number, batch in enumerate(batches):
        whole = number < 2 or not shared
        found = _run(model, blocks, store, batch, stop=not whole)
        if not whole and not _equal(found[0][1], calls[0][0]):
            found, whole = _run(model, blocks, store, batch), True
        hidden.append(found[0][0].float())
        calls.append([call for _, call in found] if whole else calls[0])
        if number == 1:
            shared = _equal(calls[0], calls[1])
            calls[1] = calls[0] if shared else calls[1]
    return BlockInputs(hidden, calls)


def _run(model, blocks: Blocks, store: BlockStore, batch, stop: bool = False) -> list[tuple[torch.Tensor, Call]]:
    found: list[tuple[torch.Tensor, Call]] = []
    output: list[torch.Tensor] = []

    def before(module, args, kwargs):
        states, call = split_call(args, kwargs)
        if output and not torch.equal(states, output[-1]):
            raise ValueError(
                f"model: block {len(found)} ({type(module).__name__}) does not go on from the output of the block "
                "before; models whose blocks are not a chain cannot be quantised by windows."
            )
        found.append((states.detach(), _float32(call)))
        if stop:
            raise _Stop
        return None

    def after(module, args, kwargs, result):
        output[:] = [first(result).detach()]

    handles = []
    with store.streaming():
        for block in blocks.modules:
            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(block.register_forward_hook(after, with_kwargs=True))
        try:
            batch = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
            model(**batch, use_cache=False)
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()
    if not stop and len(found) != len(blocks.modules):
        raise ValueError(f"model: {len(blocks.modules)} blocks were called {len(found)} times in one pass.")
    return found


def split_call(args: tuple, kwargs: dict) -> tuple[torch.Tensor, Call]:
    if args:
        return args[0], Call(args[1:], kwargs)
    return kwargs["hidden_states"], Call(
        (), {name: value for name, value in kwargs.items() if name != "hidden_states"}
    )


def first(output) -> torch.Tensor:
    """The hidden states of what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def run_block(block: nn.Module, states: torch.Tensor, call: Call) -> torch.Tensor:
    return first(block(states, *call.args, **call.kwargs))


def _float32(value):
    """Tensors of lower precision in float32: blocks are learned in that."""
    if isinstance(value, torch.Tensor):
        return value.detach().float() if value.is_floating_point() else value
    if isinstance(value, Call):
        return Call(_float32(value.args), _float32(value.kwargs))
    if isinstance(value, (tuple, list)):
        return type(value)(map(_float32, value))
    if isinstance(value, dict):
        return {name: _float32(each) for name, each in value.items()}
    return value


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
        return both and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    return a is b or a == b
