"""The pictures to adapt to, in steps of a few classes each, as the labels of the round have them."""

import numpy as np
import torch

from ...data.seeded import SeededDataset


class Targets(SeededDataset):
    """Pictures of another data set, whose labels are never read: a sample's are those of the round's plan.

    Args:
        dataset: the training set of an image classification; only its `source` and `transform` are used.
        steps_per_round, batch_size: how long an epoch is.
    """

    def __init__(self, dataset, steps_per_round: int, batch_size: int):
        super().__init__(dataset.seed)
        self.source, self.transform, self.num_channels = dataset.source, dataset.transform, dataset.num_channels
        self.steps_per_round, self.batch_size = steps_per_round, batch_size
        #: (steps, batch) numbers of pictures, and their classes; set before each round.
        self.pictures = np.arange(steps_per_round * batch_size).reshape(steps_per_round, -1) % len(self.source)
        self.classes = np.zeros_like(self.pictures)

    def __len__(self) -> int:
        return self.steps_per_round * self.batch_size

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor | int]:
        step, place = divmod(index, self.batch_size)
        picture = self.source.read(int(self.pictures[step, place]), self.num_channels)
        return {
            "pixel_values": self.transform(picture, rng),
            "labels": int(self.classes[step, place]),
            "step": step,
            "place": place,
        }


def plan_round(
    labels: np.ndarray,
    kept: np.ndarray,
    classes: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    samples_per_class: int,
    seed: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Which pictures each step of a round is made of, grouped by class.

    A step has batch_size / samples_per_class classes, or as many as there are; then they have more pictures each. A
    class with fewer pictures than it is to give gives some twice.

    Args:
        labels: (pictures,), of the round; kept: (pictures,), whether one is used; classes: those that are.

    Returns:
        (steps, batch_size) numbers of pictures, and their classes.
    """
    members = {int(number): np.flatnonzero(kept & (labels == number)) for number in classes}
    count = min(batch_size // samples_per_class, len(members))
    sizes = [batch_size // count + (place < batch_size % count) for place in range(count)]
    pictures, of = np.empty((steps, batch_size), dtype=np.int64), np.empty((steps, batch_size), dtype=np.int64)
    for step in range(steps):
        rng = np.random.default_rng((*seed, step))
        chosen = rng.choice(sorted(members), count, replace=False)
        own = [rng.choice(members[c], n, replace=n > len(members[c])) for c, n in zip(chosen, sizes, strict=True)]
        pictures[step], of[step] = np.concatenate(own), np.repeat(chosen, sizes)
    return pictures, of
