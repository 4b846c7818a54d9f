"""Pairs of images as tokens, and the sentences that are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..losses.token_losses import IGNORED
from .seeded import SeededDataset

#: Of the prompts that are evaluated with.
_EVALUATION = 11


@dataclass(frozen=True)
class TokenPairs:
    """Pairs of one task.

    Attributes:
        task: its name.
        names: of the pictures.
        images, answers: (pairs, tokens) ids.
    """

    task: str
    names: Sequence[str]
    images: np.ndarray
    answers: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def sentence(self, numbers: Sequence[int]) -> np.ndarray:
        """Image, answer, image, answer, … of these pairs, as one row of ids."""
        numbers = list(numbers)
        return np.stack([self.images[numbers], self.answers[numbers]], 1).reshape(-1)


class DrawnSentences(SeededDataset):
    """Sentences of pairs of one task; each pair ends one, after others that are drawn anew for every epoch.

    Without a seed, for evaluation, those before depend on the number of the pair alone.

    Args:
        tasks: whose pairs end the sentences.
        number: of pairs in a sentence.
        prompts: of the same tasks, from which the others are drawn; by default `tasks`.
        seed: see `SeededDataset`.
    """

    def __init__(
        self,
        tasks: Sequence[TokenPairs],
        number: int,
        prompts: Sequence[TokenPairs] | None = None,
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.tasks, self.number, self.prompts = list(tasks), number, list(prompts or tasks)
        self.ends = np.cumsum([len(task) for task in self.tasks])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, index: int) -> tuple[int, int]:
        """The task of a sentence, and its last pair's number in it."""
        task = int(np.searchsorted(self.ends, index, side="right"))
        return task, index - int(self.ends[task] - len(self.tasks[task]))

    def prompt(self, index: int, rng: np.random.Generator | None = None, task: int | None = None) -> np.ndarray:
        """The ids before the last pair, of `task` instead of the sentence's own."""
        own, number = self.place(index)
        rng = np.random.default_rng((_EVALUATION, index)) if rng is None else rng
        prompts = self.prompts[own if task is None else task]
        is_among_them = prompts is self.tasks[own] and len(prompts) > 1
        others = len(prompts) - is_among_them
        numbers = rng.choice(others, self.number - 1, replace=others < self.number - 1)
        if is_among_them:
            numbers = numbers + (numbers >= number)
        return prompts.sentence(numbers.tolist())

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        task, number = self.place(index)
        return as_sample(np.concatenate([self.prompt(index, rng), self.tasks[task].sentence([number])]))


def as_sample(ids: np.ndarray) -> dict[str, torch.Tensor]:
    """`input_ids`, and the next ids as `labels` and as `shift_labels`, which transformers' losses do not shift."""
    ids = torch.from_numpy(ids.astype(np.int64))
    labels = torch.cat([ids[1:], ids.new_tensor([IGNORED])])
    return {"input_ids": ids, "labels": labels, "shift_labels": labels.clone()}


def joined_sentences(tasks: Sequence[TokenPairs], number: int) -> list[np.ndarray]:
    """Each task's pairs, `number` after another in one sentence; the last of a task may have fewer."""
    return [
        task.sentence(range(first, min(first + number, len(task))))
        for task in tasks
        for first in range(0, len(task), number)
    ]
