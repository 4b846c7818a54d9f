"""Convolutions along the edges of a graph; ViG uses the first (https://arxiv.org/abs/2206.00272, section 3.2).

Shapes: B images, N nodes, M keys, C channels, k neighbours. Nodes are (B, N, C), edges the keys' indices (B, N, k).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.reparameterization import ConvNorm

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),
    "hardswish": F.hardswish,
    "silu": F.silu,
}


def gather(keys: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The keys (B, M, C) at `indices` (B, ...): (B, ..., C)."""
    batch, num_keys, channels = keys.shape
    offsets = torch.arange(batch, device=keys.device) * num_keys
    flat = (indices + offsets.view(-1, *(1,) * (indices.ndim - 1))).flatten()
    return keys.reshape(-1, channels).index_select(0, flat).view(*indices.shape, channels)


def max_over_neighbors(keys: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """Largest value of each channel among each node's neighbours: (B, M, C), (B, N, k) -> (B, N, C).

    A neighbour at a time, so that nothing of the size N·k·C is made; for the backward pass the winners are kept.
    """
    columns = neighbors.unbind(-1)
    if not (torch.is_grad_enabled() and keys.requires_grad):
        largest = gather(keys, columns[0])
        for column in columns[1:]:
            largest = torch.maximum(largest, gather(keys, column))
        return largest
    with torch.no_grad():
        largest = gather(keys, columns[0])
        winners = columns[0][..., None].expand_as(largest)
        for column in columns[1:]:
            candidate = gather(keys, column)
            better = candidate > largest
            largest = torch.where(better, candidate, largest)
            winners = torch.where(better, column[..., None], winners)
    return keys.gather(1, winners)


def sum_over_neighbors(keys: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """Sum of each node's neighbours: (B, M, C), (B, N, k) -> (B, N, C)."""
    columns = neighbors.unbind(-1)
    total = gather(keys, columns[0])
    for column in columns[1:]:
        total = total + gather(keys, column)
    return total


class GroupedUpdate(nn.Module):
    """Grouped 1×1 convolution with bias, batch norm, activation: (B, in, H, W) -> (B, out, H, W).

    The groups are the heads of the paper's multi-head update (equation 6).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int = 4,
        activation: str = "gelu",
        eps: float = 1e-5,
        momentum: float = 0.1,
        folded: bool = False,
    ):
        super().__init__()
        self.linear = ConvNorm(
            in_channels, out_channels, groups=groups, bias=True, eps=eps, momentum=momentum, folded=folded
        )
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.linear(hidden_states))


def _as_map(nodes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, H·W, C) -> (B, C, H, W), a view."""
    return nodes.unflatten(1, size).permute(0, 3, 1, 2)


def _as_nodes(hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H·W, C)."""
    return hidden_states.flatten(2).transpose(1, 2)


def _of_edges(update: GroupedUpdate, edges: torch.Tensor) -> torch.Tensor:
    """Apply `update` to features of edges: (B, N, k, in) -> (B, N, k, out)."""
    return update(edges.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MaxRelativeConv(nn.Module):
    """MRConv, equations 4 and 5: update([x, maxⱼ(yⱼ - x)]), channels interleaved; (x, y, edges, (H, W)) -> map."""

    def __init__(self, in_channels: int, out_channels: int, **settings):
        super().__init__()
        self.update = GroupedUpdate(2 * in_channels, out_channels, **settings)

    def forward(
        self, nodes: torch.Tensor, keys: torch.Tensor, neighbors: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        # maxⱼ(yⱼ - x) = maxⱼ(yⱼ) - x: one subtraction per node instead of one per edge.
        relative = max_over_neighbors(keys, neighbors) - nodes
        return self.update(_as_map(torch.stack((nodes, relative), dim=-1).flatten(-2), size))


class EdgeConv(nn.Module):
    """EdgeConv: maxⱼ update([x, yⱼ - x]) (https://arxiv.org/abs/1801.07829)."""

    def __init__(self, in_channels: int, out_channels: int, **settings):
        super().__init__()
        self.update = GroupedUpdate(2 * in_channels, out_channels, **settings)

    def forward(
        self, nodes: torch.Tensor, keys: torch.Tensor, neighbors: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        if self.training:
            # All edges at once, (B, N, k, 2C): the batch norm's statistics are those of the edges.
            centres = nodes[:, :, None].expand(-1, -1, neighbors.shape[-1], -1)
            edges = torch.cat((centres, gather(keys, neighbors) - centres), dim=-1)
            return _as_map(_of_edges(self.update, edges).amax(2), size)
        largest = None
        for column in neighbors.unbind(-1):
            edges = torch.cat((nodes, gather(keys, column) - nodes), dim=-1)
            message = self.update(_as_map(edges, size))
            largest = message if largest is None else torch.maximum(largest, message)
        return largest


class SageConv(nn.Module):
    """GraphSAGE: update([x, maxⱼ message(yⱼ)]) (https://arxiv.org/abs/1706.02216)."""

    def __init__(self, in_channels: int, out_channels: int, **settings):
        super().__init__()
        self.message = GroupedUpdate(in_channels, in_channels, **settings)
        self.update = GroupedUpdate(2 * in_channels, out_channels, **settings)

    def forward(
        self, nodes: torch.Tensor, keys: torch.Tensor, neighbors: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        if self.training:
            # As in EdgeConv: statistics of the edges, to which a key counts as often as it is a neighbour.
            largest = _of_edges(self.message, gather(keys, neighbors)).amax(2)
        else:
            messages = _as_nodes(self.message(_as_map(keys, (keys.shape[1], 1))))
            largest = max_over_neighbors(messages, neighbors)
        return self.update(_as_map(torch.cat((nodes, largest), dim=-1), size))


class GinConv(nn.Module):
    """GIN: update((1 + ε) x + Σⱼ yⱼ) with a learned ε (https://arxiv.org/abs/1810.00826)."""

    def __init__(self, in_channels: int, out_channels: int, **settings):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.update = GroupedUpdate(in_channels, out_channels, **settings)

    def forward(
        self, nodes: torch.Tensor, keys: torch.Tensor, neighbors: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        return self.update(_as_map((1 + self.eps) * nodes + sum_over_neighbors(keys, neighbors), size))


GRAPH_CONVOLUTIONS = {"max_relative": MaxRelativeConv, "edge": EdgeConv, "sage": SageConv, "gin": GinConv}
