"""The simulated cell and how agents learn in it, as numbers: imports nothing heavy, wrong ones are told at once."""

from dataclasses import dataclass

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
        for name, most in (("devices", _MOST), ("channels", _MOST), ("tasks", _MOST_TASKS), ("max_slots", None)):
            value = getattr(self, name)
            if name == "max_slots" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= (most or value):
                to = f" to {most}" if most else ""
                raise ValueError(f"{name}: got {value}, accepted are whole numbers from 1{to}.")
        for name in ("slot", "max_power", "bandwidth", "noise"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")
        if not 0 < self.distances[0] < self.distances[1] < float("inf"):
            raise ValueError(f"distances: got {self.distances}, accepted are two positive numbers in order.")
        for name in ("energy_weight", "path_loss_exponent"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0.")


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
        for name, least in (("steps", 1), ("buffer", 2), ("batch", 1), ("reuse", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from {least}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: got {self.seed}, accepted are whole numbers from 0 to {2**32 - 1}.")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate: got {self.learning_rate}, accepted are positive numbers.")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0 to 1.")
