"""ViG's published formulas written down directly: what Pyramid ViG is timed against.

All pairwise distances, then neighbours and centres gathered for every edge by an expanded index, as in the paper's
equations 3 to 5 and the usual graph libraries. Weights and outputs are those of the network given.
"""

import copy
from types import MethodType

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling.vig.graph_convolutions import MaxRelativeConv
from ..modeling.vig.knn_graph import clamp_neighbors
from ..modeling.vig.modeling_vig import Grapher


def naive_vig(model: nn.Module) -> nn.Module:
    """A copy of a (Pyramid) ViG with max-relative convolutions whose graphs are computed by the plain formulas."""
    naive = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for module in naive.modules():
        if isinstance(module, Grapher):
            if not isinstance(module.convolution, MaxRelativeConv):
                raise ValueError(f"model: got {type(module.convolution).__name__}, accepted is MaxRelativeConv.")
            module.forward = MethodType(_naive_grapher, module)
        if hasattr(module, "prepare_pixels"):
            module.prepare_pixels = lambda pixel_values: pixel_values.contiguous()
    return naive


def _gather(nodes: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(B, C, M), (B, N, k) -> (B, C, N, k)."""
    batch, channels, _ = nodes.shape
    index = indices[:, None].expand(-1, channels, -1, -1).flatten(2)
    return nodes.gather(2, index).view(batch, channels, *indices.shape[1:])


def _naive_grapher(self: Grapher, hidden_states: torch.Tensor, relative_position: torch.Tensor | None) -> torch.Tensor:
    residual, (batch, _, height, width) = hidden_states, hidden_states.shape
    hidden_states = self.project_in(hidden_states)
    x = y = hidden_states.flatten(2)
    if self.reduction > 1:
        y = F.avg_pool2d(hidden_states, self.reduction).flatten(2)

    k, dilation = clamp_neighbors(self.graph.num_neighbors, self.graph.dilation, y.shape[-1])
    with torch.no_grad():
        a, b = F.normalize(x, dim=1).transpose(1, 2), F.normalize(y, dim=1).transpose(1, 2)
        inner = -2 * (a @ b.transpose(1, 2))
        distances = a.square().sum(-1, keepdim=True) + inner + b.square().sum(-1)[:, None]
        if relative_position is not None:
            distances = distances + relative_position
        neighbors = torch.topk(-distances, k * dilation).indices[..., ::dilation]
    centres = torch.arange(height * width, device=x.device)[None, :, None].expand(batch, -1, k)

    relative = (_gather(y, neighbors) - _gather(x, centres)).max(-1).values
    features = torch.stack((x, relative), dim=2).flatten(1, 2).unflatten(2, (height, width))
    return residual + self.drop_path(self.project_out(self.convolution.update(features)))
