"""Position tables of vision transformers: how they are made, and how they go on at another image size."""

import numpy as np
import torch
from torch.nn import functional as F


def sine_cosine_positions(width: int, rows: int, columns: int, *, extra_tokens: int = 0) -> torch.Tensor:
    """Fixed table of a grid (MAE, https://arxiv.org/abs/2111.06377), float64.

    Args:
        width: of a token, a multiple of 4: the first half tells the column, the second the row.
        extra_tokens: rows of zeros before the grid's, such as for a class token.

    Returns:
        (extra_tokens + rows · columns, width).
    """
    if width % 4:
        raise ValueError(f"width: got {width}, accepted are multiples of 4.")
    frequencies = 10000.0 ** -(np.arange(width // 4, dtype=np.float64) / (width / 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    halves = []
    for position in (column, row):
        angles = position.reshape(-1, 1) * frequencies
        halves += [np.sin(angles), np.cos(angles)]
    table = torch.from_numpy(np.concatenate(halves, axis=1))
    return torch.cat([table.new_zeros(extra_tokens, width), table])


def resize_positions(table: torch.Tensor, rows: int, columns: int, *, extra_tokens: int = 1) -> torch.Tensor:
    """A learnt or fixed table (1, extra_tokens + side², width) for another grid: bicubic; the extra tokens stay.

    Raises:
        ValueError: the table is not of a square grid.
    """
    extra, grid = table[:, :extra_tokens], table[:, extra_tokens:]
    side = round(grid.shape[1] ** 0.5)
    if side * side != grid.shape[1]:
        raise ValueError(
            f"table: got {grid.shape[1]} positions beside {extra_tokens} extra ones, accepted are squares."
        )
    if (rows, columns) == (side, side):
        return table
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([extra, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def resize_relative_bias(table: torch.Tensor, window: int, *, method: str = "geometric") -> torch.Tensor:
    """Swin's biases ((2 w - 1)², heads) for windows of another side.

    Args:
        table: of the windows it was trained with.
        window: side of the new windows, in tokens.
        method: "geometric" (SimMIM): old distances lie in a geometric progression between the new ones, dense near
            zero, and a cubic spline runs through the table (a linear one through 3×3). "bicubic": as a picture.

    Raises:
        ValueError: the table is not of square windows.
    """
    entries, heads = table.shape
    side, target = round(entries**0.5), 2 * window - 1
    if side * side != entries or side % 2 == 0:
        raise ValueError(f"table: got {entries} entries, accepted are squares of odd numbers.")
    if side == target:
        return table
    maps = table.T.reshape(heads, side, side)
    if method == "bicubic":
        resized = F.interpolate(maps[None], size=(target, target), mode="bicubic", align_corners=False)[0]
    elif method == "geometric":
        across = _spline(_geometric(side, target), np.arange(target) - target // 2, degree=1 if side <= 3 else 3)
        across = torch.from_numpy(across).to(maps.device)
        resized = (across @ maps.double() @ across.T).to(table)
    else:
        raise ValueError(f"method: got {method!r}, accepted are 'geometric' and 'bicubic'.")
    return resized.flatten(1).T.contiguous()


def _geometric(source: int, target: int) -> np.ndarray:
    """Positions of `source` old distances among those of `target`: 0, ±1, ±(1 + q), ±(1 + q + q²), ..., with the q for
    which the last one is the new end."""
    low, high, terms = 0.5, 2.0, source // 2
    # As published, q is looked for between these; of small tables that are made much larger it is above.
    while terms > 1 and sum(high**power for power in range(terms)) < target // 2:
        high *= 2
    while high - low > 1e-6:
        ratio = (low + high) / 2
        length = sum(ratio**power for power in range(terms))
        low, high = (low, ratio) if length > target // 2 else (ratio, high)
    steps = np.cumsum([ratio**power for power in range(terms)])
    return np.concatenate([-steps[::-1], [0.0], steps])


def _spline(old: np.ndarray, new: np.ndarray, degree: int) -> np.ndarray:
    """(new, old): the values of the interpolating spline at `new` are this matrix times those at `old`, the positions
    that it goes through. Not-a-knot ends; beyond them the value at the end, as the published routine has it."""
    inner = old[2:-2] if degree == 3 else old[1:-1]
    ends = degree + 1
    knots = np.concatenate([np.repeat(old[0], ends), inner, np.repeat(old[-1], ends)])
    basis = [_b_splines(np.clip(x, old[0], old[-1]), knots, degree) for x in (old, new)]
    return np.linalg.solve(basis[0].T, basis[1].T).T


def _b_splines(x: np.ndarray, knots: np.ndarray, degree: int) -> np.ndarray:
    """(positions, splines) by the recursion of Cox and de Boor; the last interval has its right end."""
    last = np.searchsorted(knots, knots[-1]) - 1  # the last interval that is not empty
    span = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, last)
    values = np.zeros((len(x), len(knots) - 1))
    values[np.arange(len(x)), span] = 1
    for k in range(1, degree + 1):
        count = len(knots) - 1 - k
        left, right = knots[k : k + count] - knots[:count], knots[k + 1 : k + 1 + count] - knots[1 : count + 1]
        up = np.divide(x[:, None] - knots[:count], left, where=left > 0, out=np.zeros((len(x), count)))
        down = np.divide(
            knots[k + 1 : k + 1 + count] - x[:, None], right, where=right > 0, out=np.zeros((len(x), count))
        )
        values = up * values[:, :count] + down * values[:, 1 : count + 1]
    return values


def resize_bias_plane(table: torch.Tensor, queries: int, keys: int) -> torch.Tensor:
    """Biases (heads, queries, keys) of an attention for another number of tokens: bicubic over the plane (CMT)."""
    if table.shape[1:] == (queries, keys):
        return table
    return F.interpolate(table[None], size=(queries, keys), mode="bicubic", align_corners=False)[0]
