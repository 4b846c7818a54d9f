"""An exponential moving average of a model's weights and buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class ExponentialMovingAverage:
    r"""The average :math:`e \leftarrow d\,e + (1-d)\,w` of everything in a model's state dict.

    Batch-norm statistics are averaged as the weights are, whole numbers (batch counters) are copied: timm's
    ModelEmaV2, with which GhostNetV3 was trained. There is no correction for the start: the average begins at the
    model's first weights, so it lags behind for about 1 / (1 - d) steps.

    Args:
        model: the model in training. Its tensors are watched, not copied: it must keep them (no FSDP or ZeRO).
        decay: d, from 0 to below 1.
        start: the average so far, by state-dict name; the model's present state by default.
    """

    def __init__(self, model: nn.Module, decay: float, start: dict[str, torch.Tensor] | None = None):
        self.decay = decay
        self._live = unique_state(model)
        low = sorted({str(t.dtype) for t in self._live.values() if t.is_floating_point() and t.dtype.itemsize < 4})
        if low:
            raise ValueError(
                f"--ema_decay: the model's weights are {', '.join(low)}, too coarse for an average that moves by "
                f"{1 - decay:g} of the difference each step. Load them in float32; --bf16 computes in bfloat16 then."
            )
        first = self._live if start is None else start
        self._average = {
            name: first[name].detach().to(tensor.device, tensor.dtype, copy=True)
            for name, tensor in self._live.items()
        }
        floating = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        self._averaged = [self._average[name] for name in floating], [self._live[name] for name in floating]
        self._copied = [name for name in self._live if name not in set(floating)]

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present state into the average."""
        average, live = self._averaged
        torch._foreach_lerp_(average, [tensor.detach() for tensor in live], 1.0 - self.decay)
        for name in self._copied:
            self._average[name].copy_(self._live[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average, by the model's state-dict names."""
        return self._average

    def copy_to_model(self) -> None:
        """Overwrite the model's state by the average."""
        copy_state(self._average, self._live)


def unique_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state dict, tensors that appear under several names (tied weights) only once."""
    seen = set()
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state


@torch.no_grad()
def copy_state(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    """Copy the values of `source` into the tensors of `target` that have the same name."""
    for name, tensor in source.items():
        target[name].copy_(tensor)


@contextmanager
def temporarily(state: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors of a model, to be changed in place; afterwards they are, bit for bit, what they were."""
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    try:
        yield state
    finally:
        copy_state(before, state)
