"""Windows of blocks: their steps and roundings are learned together, and the next block makes up for errors of one."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from .capture import Call, first
from .configuration_cbq import CbqConfig
from .grid import Grid, dequantize, quantize, quantize_activations, weight_grid
from .reconstruction import reconstruction_loss
from .rounding import Pull, fractions, harden, rectified_sigmoid, round_by, rounded_weight

State = dict[str, torch.Tensor]
#: Of the annealing of beta, and the share of the steps before the rounding is driven anywhere.
_BETA, _WARM_UP = (20.0, 2.0), 0.2


class QuantizedLayer:
    """A weight as integers on a grid."""

    def __init__(self, integers: torch.Tensor, grid: Grid):
        self.integers, self.grid = integers.to(torch.int8), grid

    def weight(self) -> torch.Tensor:
        return dequantize(self.integers.to(self.grid.scale.dtype), self.grid)


class LearnedLayer:
    """A weight on its way to integers.

    Args:
        weight: (rows, inputs), float32.
        config: bits, groups, rank and the beginning.
        generator: of A1.
    """

    def __init__(self, weight: torch.Tensor, config: CbqConfig, generator: torch.Generator):
        rows, inputs = weight.shape
        self.bits, self.start, self.rounding = config.bits, config.rounding_init, config.rounding
        self.weight = weight
        self.first = weight_grid(weight, config.bits, config.group_size, config.symmetric)
        self.log_step = torch.zeros_like(self.first.scale)
        if config.rank is None:
            self.a1, self.a2 = None, torch.zeros_like(weight)
        else:
            rank = min(config.rank, rows, inputs)
            # Drawn on the CPU: the same numbers on every device.
            self.a1 = torch.randn(rows, rank, generator=generator).to(weight.device) / math.sqrt(rank)
            self.a2 = torch.zeros(rank, inputs, device=weight.device)
        self.v0 = fractions(weight, self.first) if self.start == "fraction" else None

    def learned(self) -> list[torch.Tensor]:
        return [each for each in (self.a1, self.a2) if each is not None]

    def grid(self) -> Grid:
        return Grid(self.first.scale * self.log_step.exp(), self.first.zero_point)

    def v(self) -> torch.Tensor:
        return self.a2 if self.a1 is None else self.a1 @ self.a2

    def delta(self) -> torch.Tensor:
        return rectified_sigmoid(self.v() if self.v0 is None else self.v() + self.v0)

    def current(self, pull: Pull | None = None) -> torch.Tensor:
        """The weight to compute with while learning: rounded softly, or as it would be stored with the gradient of
        that."""
        hard = self.rounding == "hard"
        return rounded_weight(self.weight, self.v(), self.grid(), self.bits, self.v0, hard, pull)

    def hard(self, dtype: torch.dtype) -> QuantizedLayer:
        """What is stored: steps in the model's precision, the weights rounded as was learned."""
        with torch.no_grad():
            grid = self.grid()
            grid = Grid(grid.scale.to(dtype).float(), grid.zero_point)
            return QuantizedLayer(round_by(self.weight, grid, harden(self.delta()), self.bits), grid)

    def tensors(self) -> State:
        found = {"weight": self.weight, "log_step": self.log_step, "a1": self.a1, "a2": self.a2}
        return {name: value.detach() for name, value in found.items() if value is not None}

    def restore(self, tensors: State) -> None:
        for name, value in tensors.items():
            setattr(self, name, value)


def nearest(weight: torch.Tensor, config: CbqConfig, dtype: torch.dtype) -> QuantizedLayer:
    """Round to nearest, with steps in the model's precision."""
    grid = weight_grid(weight, config.bits, config.group_size, config.symmetric)
    grid = Grid(grid.scale.to(dtype).to(weight.dtype), grid.zero_point)
    return QuantizedLayer(quantize(weight, grid, config.bits), grid)


@dataclass
class LearnedBlock:
    """A block of the quantised model that is being learned: all of its weights, and those on their way to integers."""

    module: nn.Module
    state: State
    layers: dict[str, LearnedLayer]

    def run(self, weights: State, states: torch.Tensor, call: Call) -> torch.Tensor:
        return first(functional_call(self.module, {**self.state, **weights}, (states, *call.args), call.kwargs))


class quantized_inputs:
    """Inside, the layers of the blocks see their inputs quantised; None: as they are."""

    def __init__(self, blocks: list[LearnedBlock], bits: int | None, symmetric: bool = True):
        self.layers = [block.module.get_submodule(name) for block in blocks for name in block.layers] if bits else []
        self.bits, self.symmetric = bits, symmetric

    def __enter__(self):
        def before(module, args):
            return (quantize_activations(args[0], self.bits, self.symmetric).dequantized, *args[1:])

        self.handles = [layer.register_forward_pre_hook(before) for layer in self.layers]

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


def learn_window(
    blocks: list[LearnedBlock],
    hidden: list[torch.Tensor],
    calls: list[list[Call]],
    targets: list[list[torch.Tensor]],
    config: CbqConfig,
    seed: int,
    on_step: Callable[[float], None] = lambda loss: None,
) -> dict[str, float]:
    """Learn steps and roundings of the window's blocks.

    Args:
        blocks: of the window.
        hidden: inputs of the window, a tensor for each batch.
        calls: for each batch the other arguments of each of the blocks.
        targets: for each batch the outputs to come near to; their losses are averaged.
        seed: of the order of the batches.
        on_step: told the loss after each step.

    Returns:
        the loss of rounding to nearest before, and of the learned rounding after, both on the first batch.
    """
    layers = [layer for block in blocks for layer in block.layers.values()]
    steps, total = 0, config.epochs * len(hidden)
    rounding = [each for layer in layers for each in layer.learned()]
    grids = [layer.log_step for layer in layers] if config.learn_steps else []
    groups = [{"params": rounding, "lr": config.rounding_lr}, {"params": grids, "lr": config.step_lr}]
    with quantized_inputs(blocks, config.activation_bits):
        before = _hard_loss(blocks, hidden[0], calls[0], targets[0], config)
        if not layers:  # all of them stay as they are
            return {"loss_before": before, "loss_after": before}
        for each in [*rounding, *grids]:
            each.requires_grad_(True)
        optimizer = torch.optim.Adam([group for group in groups if group["params"]])
        order = torch.Generator().manual_seed(seed)
        weights = sum(layer.weight.numel() for layer in layers)
        for _ in range(config.epochs):
            for number in torch.randperm(len(hidden), generator=order).tolist():
                share = steps / max(total - 1, 1)
                pull = None
                if share >= _WARM_UP and config.rounding_weight:
                    beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 - (share - _WARM_UP) / (1 - _WARM_UP))
                    pull = Pull(config.rounding_weight * before / weights, beta)
                current = [
                    {f"{name}.weight": layer.current(pull) for name, layer in block.layers.items()} for block in blocks
                ]
                loss = _loss(blocks, current, hidden[number], calls[number], targets[number], config)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if config.rounding == "hard":  # what flips to and fro comes to rest
                    for group in optimizer.param_groups:
                        group["lr"] = group.setdefault("first_lr", group["lr"]) * (1 - share)
                optimizer.step()
                steps += 1
                on_step(loss.item())
        after = _hard_loss(blocks, hidden[0], calls[0], targets[0], config)
    for each in [*rounding, *grids]:
        each.requires_grad_(False)
    return {"loss_before": before, "loss_after": after}


def _loss(blocks, weights: list[State], states, calls: list[Call], targets: list[torch.Tensor], config: CbqConfig):
    for block, weight, call in zip(blocks, weights, calls, strict=True):
        states = block.run(weight, states, call)
    losses = [reconstruction_loss(states, target, config.kld_weight).total for target in targets]
    return sum(losses) / len(losses)


def _hard_loss(blocks, states, calls, targets, config: CbqConfig) -> float:
    with torch.no_grad():
        hard = [
            {f"{name}.weight": layer.hard(torch.float32).weight() for name, layer in block.layers.items()}
            for block in blocks
        ]
        return _loss(blocks, hard, states, calls, targets, config).item()
