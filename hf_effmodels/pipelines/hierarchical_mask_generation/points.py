"""Where segment-everything asks: the grid of points of the first round, and those around it of the second.

The rule is TinySAM's (https://arxiv.org/abs/2312.13789, section 3.4).
"""

import math

import torch

_NEAR = (-1, 0, 1)
#: Where the points of the second round lie around one of the first, in strides, in the order they are asked.
_AROUND = (
    *((a, b) for a in _NEAR for b in _NEAR if (a, b) != (0, 0)),
    *((2, b) for b in _NEAR),
    *((a, 2) for a in _NEAR),
    (2, 2),
)


def grid(points_per_side: int) -> torch.Tensor:
    """Points (points_per_side², 2), x and y from 0 to 1, in the middle of equal cells, x fastest; float64."""
    if type(points_per_side) is not int or points_per_side < 1:
        raise ValueError(f"points_per_side: got {points_per_side!r}, accepted are whole numbers from 1.")
    side = (torch.arange(points_per_side, dtype=torch.float64) + 0.5) / points_per_side
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 2)


def first_points(points_per_side: int, height: int, width: int) -> torch.Tensor:
    """The points of the first round: a quarter of them per side, in pixels of the image, (points, 2).

    A side that four does not divide is rounded up: the cells of the second round then overlap rather than leave gaps.
    """
    if type(points_per_side) is not int or points_per_side < 1:
        raise ValueError(f"points_per_side: got {points_per_side!r}, accepted are whole numbers from 1.")
    return grid(math.ceil(points_per_side / 4)) * torch.tensor([width, height], dtype=torch.float64)


def second_points(first: torch.Tensor, confident: torch.Tensor, points_per_side: int) -> torch.Tensor:
    """The points of the second round: up to 15 around each of the first, where nothing is segmented yet.

    A point of the first round stands for a cell of 4 × 4 points, with offsets of -1 to 2 strides; the stride is the
    image's side over `points_per_side`, in whole pixels.

    Args:
        first: the points of the first round in pixels, (points, 2), x and y.
        confident: (height, width), where a mask of the first round is sure; no point there is asked again.
        points_per_side: of the whole grid.

    Returns:
        (points, 2) in the order they are asked; none is outside of the image, none is there twice.
    """
    height, width = confident.shape
    # Images smaller than the grid would have a stride of 0.
    stride_x, stride_y = max(width // points_per_side, 1), max(height // points_per_side, 1)
    found = {}
    sure = confident.cpu().numpy()
    for x, y in first.tolist():
        for a, b in _AROUND:
            point = (x + a * stride_x, y + b * stride_y)
            if 0 <= point[0] < width and 0 <= point[1] < height and not sure[int(point[1]), int(point[0])]:
                found[point] = None
    return torch.tensor(list(found), dtype=torch.float64).reshape(-1, 2)
