"""The graph: each node's nearest neighbours in feature space (ViG, https://arxiv.org/abs/2206.00272, section 3.1).

Shapes: B images, N nodes, M keys (the nodes at the other end of the edges), C channels, k neighbours. Nodes are
counted row by row.

Memory, in numbers per image: min(N·M, 2²²) for the distances, which are computed for some nodes at a time where there
would be more, and N·k for the edges. Nothing of the size N·M·C is made.
"""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F

#: Most distances per image at a time.
MAX_DISTANCES = 2**22


def clamp_neighbors(num_neighbors: int, dilation: int, keys: int) -> tuple[int, int]:
    """Neighbours k and dilation d such that k·d keys exist: first the dilation shrinks, then the neighbours."""
    num_neighbors = min(num_neighbors, keys)
    return num_neighbors, max(1, min(dilation, keys // num_neighbors))


@torch.no_grad()
def nearest_neighbors(
    queries: torch.Tensor,
    keys: torch.Tensor,
    num_neighbors: int,
    relative_position: torch.Tensor | None = None,
) -> torch.Tensor:
    """Indices of the nearest keys of each query, nearest first; no gradient passes.

    The distance is |x - y|² of the features normalised to length 1, plus `relative_position` where there is one.

    Args:
        queries: (B, N, C); keys: (B, M, C).
        num_neighbors: k, up to M.
        relative_position: (N, M).

    Returns:
        (B, N, k), int64.
    """
    device = queries.device.type
    # In full precision even under autocast: rounded distances would choose other neighbours.
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
        keys = F.normalize(keys.to(dtype), dim=-1)
        # -|y|²: 1, except for keys that are all zeros. |x|² is the same for all keys and changes no order.
        lengths = -keys.square().sum(-1)[:, None]  # (B, 1, M)
        keys = keys.transpose(1, 2)
        rows = max(1, MAX_DISTANCES // keys.shape[-1])
        found = []
        for start in range(0, queries.shape[1], rows):
            part = F.normalize(queries[:, start : start + rows].to(dtype), dim=-1)
            nearness = torch.baddbmm(lengths, part, keys, alpha=2)  # (B, rows, M): 2 x·y - |y|²
            if relative_position is not None:
                nearness -= relative_position[start : start + rows]
            found.append(nearness.topk(num_neighbors).indices)
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


class KnnGraph(nn.Module):
    """Dilated k-nearest-neighbour graph: of the k·d nearest keys every d-th, nearest first.

    Args:
        num_neighbors: k.
        dilation: d.
        random_rate: probability to take k random ones of the k·d instead, in training, the same for all nodes.

    Shapes: queries (B, N, C), keys (B, M, C), relative_position (N, M) -> indices of keys (B, N, k).
    """

    def __init__(self, num_neighbors: int, dilation: int = 1, random_rate: float = 0.0):
        super().__init__()
        self.num_neighbors, self.dilation, self.random_rate = num_neighbors, dilation, float(random_rate)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, relative_position: torch.Tensor | None = None
    ) -> torch.Tensor:
        k, d = clamp_neighbors(self.num_neighbors, self.dilation, keys.shape[1])
        nearest = nearest_neighbors(queries, keys, k * d, relative_position)
        if self.training and self.random_rate > 0 and torch.rand(()).item() < self.random_rate:
            return nearest[..., torch.randperm(k * d, device=nearest.device)[:k]]
        return nearest[..., ::d]

    def extra_repr(self) -> str:
        return f"num_neighbors={self.num_neighbors}, dilation={self.dilation}"
