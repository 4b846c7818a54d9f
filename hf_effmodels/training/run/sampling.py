"""Which samples a step is made of: the same for any number of processes, and after any restart."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import BatchSampler, Sampler


class EpochSampler(Sampler[int]):
    """Sample numbers in an order that depends on the seed and the epoch alone.

    In epoch e sample i comes out as e * n + i: with `divmod(number, n)` a `SeededDataset` knows the epoch of each
    sample it is asked for, in any worker process and after any restart. Without `count_epochs` it comes out as i, as
    a plain map-style data set takes it.

    With `repeats` R (repeated augmentation, https://arxiv.org/abs/1902.05509, as DeiT has it) an epoch is as long as
    ever, and made of R copies of each of its first n / R samples, one beside the other. Copy r comes out as
    (R e + r) * n + i, so that each is augmented by random numbers of its own.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True, count_epochs: bool = True, repeats: int = 1):
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.count_epochs = count_epochs
        self.repeats = repeats
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        copies = np.arange(self.length) % self.repeats
        order = order.repeat(self.repeats)[: self.length]
        rounds = self.repeats * self.epoch + copies
        return iter((self.count_epochs * rounds * self.length + order).tolist())


class SharedBatches(BatchSampler):
    """Batches for several processes in turn, each sample of the epoch in one of them.

    accelerate gives batch b to process b modulo their number. Where the last round is incomplete it repeats samples
    from the start of the epoch, which then count twice; here what is left is shared out evenly. A process for which
    nothing is left gets the last sample once more, because all have to take part in the step: `is_idle` says where.

    Args:
        sampler: of the sample numbers of an epoch.
        batch_size: samples of a full batch of one process.
        num_processes: how many take turns.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, num_processes: int):
        super().__init__(sampler, batch_size, drop_last=False)
        self.num_processes = num_processes

    def __len__(self) -> int:
        return self.num_processes * -(-len(self.sampler) // (self.batch_size * self.num_processes))

    def __iter__(self) -> Iterator[list[int]]:
        numbers = iter(self.sampler)
        while together := list(islice(numbers, self.batch_size * self.num_processes)):
            start = 0
            for process in range(self.num_processes):
                end = start + share(len(together), process, self.num_processes)
                yield together[start:end] or together[-1:]
                start = end

    def is_idle(self, process: int) -> bool:
        """Whether the last batch of an epoch holds nothing new for a process."""
        left = len(self.sampler) % (self.batch_size * self.num_processes)
        return left > 0 and share(left, process, self.num_processes) == 0


def share(total: int, process: int, num_processes: int) -> int:
    """How many of `total` things a process gets, when they are shared out evenly, the first processes first."""
    return total // num_processes + (process < total % num_processes)
