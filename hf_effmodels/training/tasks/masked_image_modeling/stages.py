"""The sizes of images and batches that a run goes through (FastMIM-P, https://arxiv.org/abs/2212.06593)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Stages:
    """From epoch `starts[k]` on images of `sizes[k]` pixels in batches of `batch_sizes[k]` per process."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    batch_sizes: tuple[int, ...]

    def of(self, epoch: int) -> int:
        """The number of the stage that an epoch belongs to."""
        return max(number for number, start in enumerate(self.starts) if start <= epoch)

    def size(self, epoch: int) -> int:
        return self.sizes[self.of(epoch)]

    def batch_size(self, epoch: int) -> int:
        return self.batch_sizes[self.of(epoch)]


class Epochs:
    """How many batches and steps each epoch of a run has.

    Args:
        stages: with their batch sizes.
        samples: of the data set.
        processes, accumulation: batches that make a step are `processes · accumulation`.
        count: of the epochs; None as many as `max_steps` take.
        max_steps: of the run, -1 for as many as the epochs have.
    """

    def __init__(
        self, stages: Stages, samples: int, processes: int, accumulation: int, count: int | None, max_steps: int
    ):
        self.batches, self.steps = [], []
        while len(self.steps) != count if max_steps < 0 else sum(self.steps) < max_steps:
            batches = max(1, math.ceil(samples / (stages.batch_size(len(self.steps)) * processes)))
            self.batches.append(batches)
            self.steps.append(math.ceil(batches / accumulation))

    def place(self, step: int) -> tuple[int, int]:
        """Epoch of a step that follows `step` others, and how many of this epoch it follows."""
        epoch = 0
        while epoch < len(self.steps) and step >= self.steps[epoch]:
            step -= self.steps[epoch]
            epoch += 1
        return epoch, step
