"""What the student trains on: places in batches of generated images. No data set is behind it."""

import numpy as np
import torch

from ...data.seeded import SeededDataset
from ...data_free import refuse_reading
from ...task import load_task

_TASK = load_task("image-classification")


class Places(SeededDataset):
    """An epoch of `steps` batches; a sample says which image of its step's batch it is."""

    def __init__(self, steps: int, batch_size: int, seed: int):
        super().__init__(seed)
        self.steps, self.batch_size = steps, batch_size

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"place": torch.tensor(index % self.batch_size)}


class EvaluationImages(_TASK.ImageClassificationDataset):
    """Real images, which no step of the training may ask for."""

    def sample(self, index: int, rng: np.random.Generator | None) -> dict:
        refuse_reading(f"image {index} of {self.source.split}")
        return super().sample(index, rng)
