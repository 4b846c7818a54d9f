"""GPTQ (https://arxiv.org/abs/2210.17323), for comparison: each column's error is made up for by the columns after."""

import torch

from .grid import Grid, dequantize, quantize, weight_grid

#: Columns that are worked on before the rest hears of it.
_BLOCK = 128


def gptq(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = True,
    damping: float = 0.01,
) -> tuple[torch.Tensor, Grid]:
    """The integers of a weight, (rows, inputs), in the order of its columns, and the grid.

    Args:
        weight: (rows, inputs)
        hessian: (inputs, inputs): the mean of x xᵀ over the calibration tokens.
        damping: added to the diagonal, as a share of its mean.
    """
    weight, inputs = weight.clone(), weight.shape[1]
    size = group_size or inputs
    hessian = hessian.clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    grids, integers = [], torch.empty_like(weight)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = torch.zeros_like(weight[:, start:end])
        for column in range(start, end):
            if column % size == 0:
                grids.append(weight_grid(weight[:, column : column + size], bits, None, symmetric))
            q = quantize(weight[:, column : column + 1], grids[-1], bits)
            integers[:, column : column + 1] = q
            error = (weight[:, column] - dequantize(q, grids[-1])[:, 0]) / inverse[column, column]
            weight[:, column:end] -= error[:, None] * inverse[column, column:end]
            errors[:, column - start] = error
        weight[:, end:] -= errors @ inverse[start:end, end:]
    return integers, Grid(*(torch.cat(parts, 1) for parts in zip(*grids, strict=True)))
