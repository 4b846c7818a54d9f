"""Which samples to train on again: those with a high loss (https://arxiv.org/abs/2402.02791, multiple rounds)."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset, Sampler

from .numbers import check_draw


def loss_probabilities(losses: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """p_i = exp(l_i / T) / Σ_j exp(l_j / T), (n,) float64.

    Raises:
        ValueError: no losses, one that is not a finite number, or a temperature that is not above 0.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 1 or not losses.size:
        raise ValueError(f"losses: got an array of shape {losses.shape}, accepted are vectors with at least one loss.")
    if not np.isfinite(losses).all():
        at = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise ValueError(f"losses: number {at} is {losses[at]}, accepted are finite numbers.")
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature}, accepted are numbers above 0.")
    weights = np.exp((losses - losses.max()) / temperature)
    return weights / weights.sum()


def draw_by_loss(
    losses: np.ndarray, rate: float, seed: int = 0, temperature: float = 1.0, group_size: int = 1
) -> np.ndarray:
    """Draw ⌊rate · n⌋ of n samples without replacement, with probabilities exp(l / T): hard ones more often.

    The draw is the Gumbel top-k of log p - log(-log u), with u from `numpy.random.RandomState(seed)`: the same on
    every machine, and without the limit of 2²⁴ categories of `torch.multinomial`, to which it is equal in law.

    Args:
        losses: (n,) of the samples in their order.
        rate: share to draw, above 0 and up to 1.
        group_size: consecutive samples that are drawn together, by their mean loss: the paper draws whole batches.

    Returns:
        (drawn,) int64 indices of samples, ascending.

    Raises:
        ValueError: see `loss_probabilities`; a rate out of range or one that draws nothing.
    """
    check_draw(rate, seed, temperature, group_size)
    losses = np.asarray(losses, dtype=np.float64)
    starts = np.arange(0, losses.size, group_size)
    sizes = np.diff(np.append(starts, losses.size))
    grouped = losses if group_size == 1 or not losses.size else np.add.reduceat(losses, starts) / sizes
    loss_probabilities(grouped, temperature)  # raises for what has none
    count = number_of_groups(losses.size, rate, group_size)
    uniform = np.random.RandomState(seed).random_sample(grouped.size)
    # log p but for a constant; of p itself, which may be 0 at low temperatures, there would be ties.
    with np.errstate(divide="ignore"):
        keys = (grouped - grouped.max()) / temperature - np.log(-np.log(uniform))
    drawn = np.sort(np.argsort(-keys, kind="stable")[:count])
    return np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in drawn]).astype(np.int64)


def number_of_groups(samples: int, rate: float, group_size: int = 1) -> int:
    """How many groups of successive samples are drawn.

    Raises:
        ValueError: none.
    """
    groups = -(-samples // group_size)
    count = int(groups * rate + 1e-9)  # 0.58 · 50 is 29, and 28.999… in floating point
    if count < 1:
        raise ValueError(f"rate: got {rate}, which draws none of {groups} groups of {group_size} samples.")
    return count


class LossWeightedSampler(Sampler[int]):
    """Sample numbers for one further round: what `draw_by_loss` draws, in an order that depends on seed and epoch."""

    def __init__(self, losses: np.ndarray, rate: float, temperature: float = 1.0, seed: int = 0, group_size: int = 1):
        self.indices = draw_by_loss(losses, rate, seed, temperature, group_size)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.indices).tolist())


class DrawnDataset(Dataset):
    """Some samples of a map-style data set, for `RecipeTrainer`: number e · n + i is its sample i, in every epoch e.

    The drawn samples are asked for by the numbers they had when their losses were measured.
    """

    def __init__(self, dataset, indices: Sequence[int]):
        self.indices = np.asarray(indices, dtype=np.int64)
        if not self.indices.size:
            raise ValueError("indices: there are none.")
        if self.indices.min() < 0 or self.indices.max() >= len(dataset):
            raise ValueError(
                f"indices: got {self.indices.min()} to {self.indices.max()}, the data set has {len(dataset)} samples."
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int):
        return self.dataset[int(self.indices[number % len(self.indices)])]

    def __getattr__(self, name: str):
        """What else the data set tells about itself, such as the counts of its text."""
        if name == "dataset":  # unpickled, it has nothing yet
            raise AttributeError(name)
        return getattr(self.dataset, name)
