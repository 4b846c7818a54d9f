"""The one data set of all training tasks: samples whose random numbers depend on the seed, the epoch and the index."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset


class SeededDataset(Dataset, ABC):
    """A map-style data set that is asked for sample i of epoch e by the number e * n + i.

    `RecipeTrainer` counts like that for subclasses of this class (`EpochSampler`), and only for them: a plain
    map-style data set is asked for 0 to n - 1 in every epoch. The random numbers of a sample come from
    (seed, epoch, index) alone, so they are the same in any worker process, in any order and after any restart.

    Args:
        seed: of the random numbers; None for a data set without any, such as one to evaluate on, which has the numbers
            0 to n - 1 only.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator | None):
        """Sample `index`, from 0 to n - 1; `rng` is its own generator, None without a seed."""

    def __getitem__(self, number: int):
        number, length = operator.index(number), len(self)
        if number < 0 or (self.seed is None and number >= length):
            raise IndexError(f"number {number} of a data set with {length} samples")
        epoch, index = divmod(number, length)
        rng = None if self.seed is None else np.random.default_rng((self.seed, epoch, index))
        return self.sample_of_epoch(epoch, index, rng)

    def sample_of_epoch(self, epoch: int, index: int, rng: np.random.Generator | None):
        """`sample`, for data sets whose samples change with the epoch in a way that is not random, such as in size."""
        return self.sample(index, rng)

    def __iter__(self) -> Iterator:
        """The samples of the first epoch."""
        return (self[index] for index in range(len(self)))


def data_seed(args) -> int:
    """The seed of the samples and their order: `--data_seed`, or else `--seed`."""
    return args.seed if args.data_seed is None else args.data_seed
