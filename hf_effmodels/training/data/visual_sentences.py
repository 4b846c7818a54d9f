"""Visual sentences packed into rows of fixed length, as DeLVM is trained (https://arxiv.org/abs/2402.04841).

A sentence is the token ids of images that belong together. Shuffled once, they are laid end to end and cut into packs.
Within a pack attention and positions begin anew at each sentence, and in long ones after each context. A sentence ends
without a label; where a pack ends in its midst, its true next id is the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..losses.token_losses import IGNORED

#: The seed of the published shuffling.
SHUFFLE_SEED = 1024


@dataclass(frozen=True)
class Pack:
    """One row.

    Attributes:
        tokens, labels, positions: (length,); `labels` are the next ids already, -100 where there is none.
        boundaries: where the stretches that see each other begin, and the end, (stretches + 1,).
    """

    tokens: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    boundaries: np.ndarray


def sentence_order(number: int, seed: int | None = SHUFFLE_SEED) -> np.ndarray:
    """The order in which sentences are laid end to end; as they are with the seed None."""
    order = np.arange(number)
    if seed is not None:
        np.random.RandomState(seed).shuffle(order)
    return order


class PackedSentences(Dataset):
    """Packs by number.

    Args:
        sentences: by number the token ids of one; read as they are needed.
        lengths: of all of them.
        packed_length: ids of a pack.
        context: longest stretch of ids that see each other.
        seed: of the shuffling; None for none.

    Raises:
        ValueError: less ids than one pack has, or a sentence without ids.
    """

    def __init__(
        self,
        sentences: Sequence[np.ndarray],
        lengths: Sequence[int],
        packed_length: int,
        context: int = 2048,
        seed: int | None = SHUFFLE_SEED,
    ):
        for name, value in (("packed_length", packed_length), ("context", context)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, accepted are whole numbers from 1.")
        lengths = np.asarray(lengths, dtype=np.int64)
        if len(lengths) and lengths.min() < 1:
            raise ValueError(f"sentences: number {int(lengths.argmin())} is empty.")
        self.sentences, self.packed_length, self.context = sentences, packed_length, context
        self.order = sentence_order(len(lengths), seed)
        self.ends = np.cumsum(lengths[self.order])
        total = int(self.ends[-1]) if len(self.ends) else 0
        self.number = total // packed_length
        if not self.number:
            raise ValueError(f"packed_length: got {packed_length}, but there are only {total} ids.")

    def __len__(self) -> int:
        return self.number

    def pack(self, number: int) -> Pack:
        """Pack `number`, from 0."""
        if not 0 <= number < self.number:
            raise IndexError(f"pack {number} of {self.number}")
        here, end = number * self.packed_length, (number + 1) * self.packed_length
        place = int(np.searchsorted(self.ends, here, side="right"))
        tokens, labels, positions, boundaries = [], [], [], [0]
        while here < end:
            sentence = np.asarray(self.sentences[int(self.order[place])], dtype=np.int64)
            first = here - (int(self.ends[place]) - len(sentence))
            last = min(len(sentence), first + end - here)
            tokens.append(sentence[first:last])
            following = sentence[first + 1 : last + 1]
            labels.append(following if last < len(sentence) else np.append(following, IGNORED))
            for start in range(0, last - first, self.context):
                length = min(self.context, last - first - start)
                positions.append(np.arange(length))
                boundaries.append(boundaries[-1] + length)
            here, place = here + last - first, place + 1
        return Pack(np.concatenate(tokens), np.concatenate(labels), np.concatenate(positions), np.array(boundaries))

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids`, from whose jumps transformers' attention masks see what belongs together, and
        `shift_labels`, which its losses take as next ids."""
        pack = self.pack(number)
        columns = {"input_ids": pack.tokens, "position_ids": pack.positions, "shift_labels": pack.labels}
        return {name: torch.from_numpy(values) for name, values in columns.items()}
