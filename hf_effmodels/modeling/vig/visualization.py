"""Pictures of what models look at. Needs matplotlib, which is imported when something is drawn."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_neighbors(
    image: Image.Image,
    neighbors: torch.Tensor,
    node: int | tuple[int, int],
    *,
    grid: tuple[int, int] | None = None,
    reduction: int = 1,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a node of a ViG and its neighbours on the image (https://arxiv.org/abs/2206.00272, figure 5).

    The node is a star, its neighbours are outlined and joined to it; the nearest is drawn strongest.

    Args:
        image: the image as the model saw it: resized and cropped, not normalised.
        neighbors: edges of one block for this image, (nodes, k): `outputs.graph[block][0]`.
        node: which node, as a number (row by row) or as (row, column).
        grid: height and width of the block's map; by default a square one.
        reduction: the stage's `config.reduction_ratios`, by which the neighbours' map is smaller.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; save with `ax.figure.savefig(path)`.

    Raises:
        ValueError: shapes that do not fit each other, or a node outside of the grid.
    """
    if neighbors.ndim != 2:
        raise ValueError(f"neighbors: got shape {tuple(neighbors.shape)}, accepted is (nodes, k): one image's edges.")
    nodes = neighbors.shape[0]
    if grid is None:
        grid = (round(nodes**0.5),) * 2
    if grid[0] * grid[1] != nodes:
        raise ValueError(f"grid: got {tuple(grid)}, accepted are two numbers whose product is the {nodes} nodes.")
    keys = max(grid[0] // reduction, 1), max(grid[1] // reduction, 1)
    if int(neighbors.max()) >= keys[0] * keys[1]:
        raise ValueError(
            f"reduction: got {reduction}, which leaves {keys[0] * keys[1]} nodes to be neighbours, but there is one "
            f"with the number {int(neighbors.max())}."
        )
    row, column = divmod(node, grid[1]) if isinstance(node, int) else node
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise ValueError(f"node: got {node}, accepted are the nodes of a {grid[0]}×{grid[1]} grid.")

    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    if ax is None:
        _, ax = plt.subplots(figsize=(5, 5))
    width, height = image.size
    ax.imshow(np.asarray(image.convert("RGB")))
    cell = width / grid[1], height / grid[0]
    # Pooling drops the rows and columns that do not fill a window.
    window = cell[0] * min(reduction, grid[1]), cell[1] * min(reduction, grid[0])
    centre = (column + 0.5) * cell[0] - 0.5, (row + 0.5) * cell[1] - 0.5
    indices = neighbors[row * grid[1] + column].tolist()
    for rank, index in enumerate(indices):
        key_row, key_column = divmod(index, keys[1])
        corner = key_column * window[0] - 0.5, key_row * window[1] - 0.5
        middle = corner[0] + window[0] / 2, corner[1] + window[1] / 2
        strength = 1 - 0.7 * rank / len(indices)
        ax.add_patch(Rectangle(corner, *window, fill=False, edgecolor="tab:blue", linewidth=2, alpha=strength))
        ax.plot((centre[0], middle[0]), (centre[1], middle[1]), color="tab:blue", linewidth=1, alpha=strength)
    ax.plot(*centre, marker="*", markersize=16, color="tab:red", markeredgecolor="white")
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_axis_off()
    return ax
