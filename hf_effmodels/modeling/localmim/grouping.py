"""Windows of a sparse map, packed into groups of equal size (GreenMIM, https://arxiv.org/abs/2205.13515, section 3).

When most tokens of a map are masked, its windows have a few tokens each, and every window another number. Several
windows share a group, within which tokens see those of their own window only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Groups:
    """How the visible tokens of a map are packed.

    Attributes:
        order: (groups · size,), the number of the token in each place; 0 where a group is filled up.
        places: (tokens,), the place of each token.
        size: of a group.
        window: (groups, size), the window of each place, -1 where a group is filled up.
    """

    order: torch.Tensor
    places: torch.Tensor
    size: int
    window: torch.Tensor

    def pack(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) -> (batch · groups, size, width)."""
        return tokens[:, self.order].reshape(-1, self.size, tokens.shape[-1])

    def unpack(self, groups: torch.Tensor) -> torch.Tensor:
        """The inverse of `pack`."""
        packed = groups.reshape(len(groups) // len(self.window), -1, groups.shape[-1])
        return packed[:, self.places]

    def apart(self) -> torch.Tensor:
        """(groups, size, size), true where a pair is not of the same window."""
        filling = self.window < 0
        other = self.window[:, :, None] != self.window[:, None]
        return other | (filling[:, :, None] & filling[:, None])


def fill_group(counts: Sequence[int], size: int) -> list[int]:
    """Which windows fill a group best: numbers of those whose counts add up to as much of `size` as possible.

    An exact 0/1 knapsack; of several solutions the one that leaves out as many of the last windows as it can.
    """
    reached = [[0] * (size + 1)]
    for count in counts:
        before = reached[-1]
        reached.append([max(b, before[s - count] + count) if count <= s else b for s, b in enumerate(before)])
    chosen, left, room = [], reached[-1][size], size
    for number in range(len(counts) - 1, -1, -1):
        if left <= 0:
            break
        if left != reached[number][room]:
            chosen.append(number)
            left -= counts[number]
            room -= counts[number]
    return chosen[::-1]


def group_windows(counts: Sequence[int], size: int) -> list[list[int]]:
    """Windows with these numbers of tokens in groups of at most `size` tokens, filled one after the other.

    Raises:
        ValueError: a window is larger than a group.
    """
    if max(counts, default=0) > size:
        raise ValueError(f"size: got {size}, but a window has {max(counts)} tokens.")
    left, groups = list(range(len(counts))), []
    while left:
        chosen = fill_group([counts[number] for number in left], size)
        groups.append([left[number] for number in chosen])
        left = [number for place, number in enumerate(left) if place not in set(chosen)]
    return groups


def make_groups(coordinates: torch.Tensor, window_size: int, shift: int) -> Groups:
    """Pack the tokens at `coordinates` (tokens, 2: row, column) into groups.

    Windows have `window_size`² places and begin at the corner, or `window_size - shift` before it; those at the border
    are smaller (Swin's cyclic shift puts them together and masks them, which is the same). Up to two windows' worth of
    tokens are one group.
    """
    total = len(coordinates)
    cell = (coordinates + (window_size - shift) % window_size) // window_size
    window = cell[:, 0] * total + cell[:, 1]
    if total <= 2 * window_size**2:
        everything = torch.arange(total, device=window.device)
        return Groups(everything, everything, total, window[None])
    order = window.argsort()  # not a stable one, as published; the results do not depend on it
    _, counts = window[order].unique_consecutive(return_counts=True)
    counts = counts.tolist()
    size = min(window_size**2, max(counts))
    members = order.split(counts)
    tokens, windows = [], []
    for group in group_windows(counts, size):
        inside = torch.cat([members[number] for number in group])
        tokens.append(torch.nn.functional.pad(inside, (0, size - len(inside)), value=-1))
        windows.append(torch.where(tokens[-1] < 0, -1, window[tokens[-1].clamp_min(0)]))
    order = torch.cat(tokens)
    places = order.argsort(stable=True)[len(order) - total :]
    return Groups(order.clamp_min(0), places, size, torch.stack(windows))
