"""A batch of sequences some of whose tokens leave."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass
class Rows:
    """Sequences that are cut together. Shapes: (B, L), hidden states (B, L, D).

    Attributes:
        hidden_states: what the next block takes.
        valid: False where there is padding.
        position_ids: (B, L), or (3, B, L) of positions with three axes.
        images: the number of the pool of image tokens a token belongs to, from 1; 0 of text.
        places: where each token was in the row as it came.
        labels: None, or targets with -100 where there is none.
    """

    hidden_states: torch.Tensor
    valid: torch.Tensor
    position_ids: torch.Tensor
    images: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor | None = None

    def keep(self, kept: list[torch.Tensor], left: bool, renumber: bool) -> "Rows":
        """
        The rows with the tokens at the indices `kept` (one ascending list each), padded to the longest.

        Args:
            kept: none of them padding.
            left: pad on the left, where the next token is to follow on the right; else on the right.
            renumber: number the positions of the tokens that stay anew from 0.
        """
        width = max(map(len, kept))

        def cut(values: torch.Tensor, padding: float = 0) -> torch.Tensor:
            rows = []
            for row, index in zip(values, kept, strict=True):
                missing = width - len(index)
                below = [0, 0] * (row.ndim - 1)
                row = row[index]
                rows.append(F.pad(row, [*below, *((missing, 0) if left else (0, missing))], value=padding))
            return torch.stack(rows)

        valid = cut(self.valid)
        if renumber:
            positions = (valid.long().cumsum(-1) - 1).clamp(min=0).masked_fill(~valid, 0)
        elif self.position_ids.ndim == 3:
            positions = torch.stack([cut(axis) for axis in self.position_ids])
        else:
            positions = cut(self.position_ids)
        return Rows(
            cut(self.hidden_states),
            valid,
            positions,
            cut(self.images),
            cut(self.places),
            None if self.labels is None else cut(self.labels, -100),
        )


def number_runs(mask: torch.Tensor) -> torch.Tensor:
    """Unbroken runs of True in each row of (B, L), numbered from 1; 0 elsewhere."""
    starts = mask & ~F.pad(mask, (1, 0))[:, :-1]
    return starts.long().cumsum(-1) * mask
