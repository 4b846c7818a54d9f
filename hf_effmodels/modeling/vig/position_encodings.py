"""Position encodings of ViG: stored for one grid, interpolated for any other."""

import torch
from torch.nn import functional as F


def interpolate_position_embedding(embedding: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A learned embedding (1, channels, h, w) for a map of another size, bicubic; itself for its own size."""
    if embedding.shape[-2:] == (height, width):
        return embedding
    resized = F.interpolate(embedding.float(), size=(height, width), mode="bicubic", align_corners=False)
    return resized.to(embedding.dtype)


def interpolate_relative_position(bias: torch.Tensor, nodes: int, keys: int) -> torch.Tensor:
    """A bias of distances (queries, keys) for other numbers of nodes: bicubic over the table as if it were an image.

    Where the numbers agree it stays as it is, even if the maps have other sides (official code).
    """
    if bias.shape == (nodes, keys):
        return bias
    values = bias if bias.dtype == torch.float64 else bias.float()
    return F.interpolate(values[None, None], size=(nodes, keys), mode="bicubic", align_corners=False)[0, 0]


def relative_position_bias(channels: int, height: int, width: int, reduction: int) -> torch.Tensor:
    """What is added to the squared distances of nodes of a height×width map: about -1 for the same place, more afar.

    Minus the similarity 2 P Pᵀ / C of sine-cosine encodings P, bicubically resized to the keys, which are the nodes of
    the map pooled by `reduction` (official code; the paper's relative positions e_iᵀ e_j, section 3.2).

    Returns:
        (height · width, ⌊height/reduction⌋ · ⌊width/reduction⌋), float32.
    """
    encoding = _sine_cosine_encoding(channels, height, width)
    similarity = (2 / channels * (encoding @ encoding.T)).float()
    nodes, keys = height * width, pooled(height, reduction) * pooled(width, reduction)
    return -interpolate_relative_position(similarity, nodes, keys)


def pooled(length: int, reduction: int) -> int:
    """Side of a map after average pooling; a side shorter than the window is pooled to one."""
    return max(length // reduction, 1)


def _sine_cosine_encoding(channels: int, height: int, width: int) -> torch.Tensor:
    """(height · width, channels), float64: the first half of the channels tells the column, the second the row."""
    quarter = channels // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    halves = []
    for coordinate in (columns, rows):
        angles = coordinate.reshape(-1, 1) * frequencies
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, dim=1)
