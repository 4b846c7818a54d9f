"""The simulated cell and how agents learn in it, as numbers: imports nothing heavy, wrong ones are told at once."""

from dataclasses import dataclass

from ..._numbers import check_from_zero, check_positive, check_share, check_whole, is_real

#: What is more was meant for something else.
_MOST, _MOST_TASKS = 10_000, 1_000_000_000


@dataclass(frozen=True)
class OffloadingSettings:
    """The cell.

    Attributes:
        devices, channels: how many.
        tasks: of each device at the beginning, in the mean; drawn from Poisson's distribution unless `fixed`.
        slot: seconds between decisions.
        energy_weight: β, of joules beside seconds.
        max_power: watts.
        distances: smallest and largest, metres.
        bandwidth, noise, path_loss_exponent: see `uplink_rates`.
        fixed: begin as the published test does: the number of tasks exactly, all at 50 m, everything computed on the
            device, channel 0. Otherwise distances and first decisions are drawn.
        max_slots: after which an episode is cut off; None for ⌊0.15 · tasks / slot⌋.
    """

    devices: int = 5
    channels: int = 2
    tasks: int = 200
    slot: float = 0.5
    energy_weight: float = 1.0
    max_power: float = 1.0
    distances: tuple[float, float] = (1.0, 100.0)
    bandwidth: float = 1e6
    noise: float = 1e-9
    path_loss_exponent: float = 3.0
    fixed: bool = False
    max_slots: int | None = None

    def __post_init__(self):
        check_whole(1, _MOST, devices=self.devices, channels=self.channels)
        check_whole(1, _MOST_TASKS, tasks=self.tasks)
        if self.max_slots is not None:
            check_whole(1, max_slots=self.max_slots)
        check_positive(slot=self.slot, max_power=self.max_power, bandwidth=self.bandwidth, noise=self.noise)
        ends = self.distances
        two = isinstance(ends, tuple | list) and len(ends) == 2 and all(map(is_real, ends))
        if not two or not 0 < ends[0] < ends[1]:
            raise ValueError(f"distances: got {ends!r}, accepted are two positive numbers in order.")
        check_from_zero(energy_weight=self.energy_weight, path_loss_exponent=self.path_loss_exponent)


@dataclass(frozen=True)
class OffloadingTraining:
    """The published settings.

    Attributes:
        steps: slots in all.
        buffer: slots between updates.
        batch: slots of a minibatch, drawn with replacement.
        reuse: how often each slot of the buffer is used, in the mean.
        learning_rate: of Adam, for actors and critic.
        gamma, lam: see `advantages`.
        clip, entropy_weight: see `clipped_loss`.
        released: as the release computes it: advantages that fade by λ alone and run on over the ends of cut-off
            episodes, powers compared with every other slot's.
        seed: of everything.
    """

    steps: int = 500_000
    buffer: int = 1024
    batch: int = 256
    reuse: int = 20
    learning_rate: float = 1e-4
    gamma: float = 0.95
    lam: float = 0.95
    clip: float = 0.2
    entropy_weight: float = 1e-3
    released: bool = False
    seed: int = 0

    def __post_init__(self):
        check_whole(1, batch=self.batch, reuse=self.reuse)
        check_whole(2, steps=self.steps, buffer=self.buffer)  # advantages of one slot have no deviation
        check_whole(0, 2**32 - 1, seed=self.seed)
        check_positive(learning_rate=self.learning_rate, clip=self.clip)
        check_from_zero(entropy_weight=self.entropy_weight)
        check_share(gamma=self.gamma, lam=self.lam)
