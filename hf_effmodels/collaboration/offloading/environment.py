"""A simulated cell: devices with tasks, radio channels, a server whose own time is not counted (MAHPPO,
https://arxiv.org/abs/2205.11854)."""

import numpy as np

from ..._numbers import as_index, check_whole
from .channel import uplink_rates
from .profiles import IMAGE_BITS, PROFILES, SplitProfile
from .settings import OffloadingSettings

_FREE, _COMPUTING, _SENDING = 0, 1, 2
#: What is told of each device, and changes within a slot (of `power` only the form does).
_OF_DEVICES = ("left", "point", "channel", "power", "doing", "seconds_left", "bits_left")
#: A task is done when it would take no longer than this.
_DONE = 1e-10
#: The smallest power, in watts, and the smallest number of finished tasks that a slot's cost is divided by.
LEAST_POWER, _LEAST_FINISHED = 1e-10, 0.8


class OffloadingEnvironment:
    """gymnasium's five values of `step`, without needing it.

    An observation is a row of four numbers for each device: tasks left, computing left, bits left, distance, each from
    0 to 1. An action is `(points, channels, powers)`, an array (devices,) each: the power holds at once, also for what
    is being sent; point and channel hold from the device's next task on.

    Args:
        profile: what the cut points cost, or the name of a published one.
        settings: the cell.
    """

    def __init__(self, profile: SplitProfile | str = "resnet18", settings: OffloadingSettings | None = None):
        if isinstance(profile, str):
            if profile not in PROFILES:
                raise ValueError(f"profile: got {profile!r}, accepted are {', '.join(PROFILES)} and a SplitProfile.")
            profile = PROFILES[profile]
        for name, value, kind in (("profile", profile, SplitProfile), ("settings", settings, OffloadingSettings)):
            if not isinstance(value, kind) and (name, value) != ("settings", None):
                raise ValueError(f"{name}: got {value!r}, accepted are those of the class {kind.__name__}.")
        self.profile = profile
        self.settings = settings or OffloadingSettings()
        self._random = np.random.default_rng()
        self._slots = 0

    @property
    def observation_size(self) -> int:
        return 4 * self.settings.devices

    def reset(self, *, seed: int | None = None, distances: np.ndarray | None = None) -> tuple[np.ndarray, dict]:
        """A new episode.

        Args:
            seed: of everything that is drawn from now on.
            distances: (devices,), metres, in the place of what the settings say.
        """
        s = self.settings
        if seed is not None:
            check_whole(0, seed=as_index(seed))
            self._random = np.random.default_rng(seed)
        count = s.devices
        if s.fixed:
            self.total = np.full(count, s.tasks)
            self.distance = np.full(count, 50.0)
            self.next_point = np.full(count, self.profile.last)
            self.next_channel = np.zeros(count, dtype=np.int64)
            self.power = np.full(count, LEAST_POWER)
        else:
            self.total = np.maximum(self._random.poisson(s.tasks, count), 1)
            self.distance = self._random.uniform(*s.distances, count)
            self.next_point = self._random.integers(0, self.profile.last + 1, count)
            self.next_channel = self._random.integers(0, s.channels, count)
            self.power = self._random.uniform(LEAST_POWER, s.max_power, count)
        if distances is not None:
            self.distance = _numbers("distances", distances)
            if self.distance.shape != (count,) or not ((self.distance > 0) & (self.distance < np.inf)).all():
                raise ValueError(f"distances: got {distances}, accepted are {count} positive numbers.")
        self.left = self.total.copy()
        self.point, self.channel = self.next_point.copy(), self.next_channel.copy()
        self.doing = np.zeros(count, dtype=np.int64)
        self.seconds_left, self.bits_left = np.zeros(count), np.zeros(count)
        self._slots = 0
        for device in range(count):
            self._begin(device)
        return self._observe(), {}

    def step(self, action) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One slot.

        Returns:
            Observation, reward, whether all tasks are done, whether the episode is cut off, and what was spent over
            all devices: `seconds`, `joules`, `finished`. The reward is -(slot + β · joules) / finished tasks, of the
            mean device, 0.8 finished ones at least.

        Raises:
            ValueError: an action that is none.
        """
        s = self.settings
        points, channels, powers = self._checked(action)
        self.power, self.next_point, self.next_channel = powers, points, channels
        energy, finished, spent = [0.0] * s.devices, [0] * s.devices, 0.0
        rates_of: dict = {}
        # Some sixty events of a slot look at single numbers, which lists give ten times as fast as arrays.
        for name in _OF_DEVICES:
            setattr(self, name, getattr(self, name).tolist())
        while True:
            rates = self._rates(rates_of)
            waits = [s.slot]
            waits += [self.seconds_left[d] for d in range(s.devices) if self.doing[d] == _COMPUTING]
            waits += [self.bits_left[d] / rates[d] for d in range(s.devices) if self.doing[d] == _SENDING]
            step = min(waits)
            ends = not spent + step < s.slot
            step = s.slot - spent if ends else step
            for device in range(s.devices):
                energy[device] += self._advance(device, step, rates[device])
            for device in range(s.devices):
                finished[device] += self._arrive(device, rates[device])
            if ends:
                break
            spent += step
        for name in _OF_DEVICES:
            setattr(self, name, np.asarray(getattr(self, name)))
        energy, finished = np.asarray(energy), np.asarray(finished)
        self._slots += 1
        done = bool((self.doing == _FREE).all())
        cost = (s.slot + s.energy_weight * energy.mean()) / max(finished.mean(), _LEAST_FINISHED)
        limit = int(s.tasks * 0.15 / s.slot) if s.max_slots is None else s.max_slots
        info = {"seconds": s.slot * s.devices, "joules": float(energy.sum()), "finished": int(finished.sum())}
        return self._observe(), -float(cost), done, not done and self._slots >= limit, info

    def _checked(self, action) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s, checked = self.settings, []
        if not isinstance(action, tuple | list) or len(action) != 3:
            raise ValueError(f"action: got {_short(action)}, accepted are points, channels and powers.")
        for name, values, low, high, kind in zip(
            ("points", "channels", "powers"),
            action,
            (0, 0, 0.0),
            (self.profile.last, s.channels - 1, s.max_power),
            (np.int64, np.int64, np.float64),
            strict=True,
        ):
            values = _numbers(name, values)
            whole = kind is np.float64 or (values == values.round()).all()
            if values.shape != (s.devices,) or not whole or not ((values >= low) & (values <= high)).all():
                raise ValueError(
                    f"{name}: got {_short(values.tolist())}, accepted are {s.devices} numbers from {low} to {high}."
                )
            checked.append(values.astype(kind))
        checked[2] = np.maximum(checked[2], LEAST_POWER)
        return tuple(checked)

    def _rates(self, known: dict) -> list[float]:
        """Of each device now; `known` are those of this slot, in which powers stay: who sends where comes again."""
        s, key = self.settings, (tuple(d == _SENDING for d in self.doing), tuple(self.channel))
        if key not in known:
            options = {"bandwidth": s.bandwidth, "noise": s.noise, "path_loss_exponent": s.path_loss_exponent}
            sending, channel = np.asarray(key[0]), np.asarray(key[1])
            known[key] = uplink_rates(np.asarray(self.power), self.distance, channel, sending, **options).tolist()
        return known[key]

    def _begin(self, device: int) -> None:
        if self.left[device] == 0:
            self.doing[device] = _FREE
            return
        self.point[device], self.channel[device] = self.next_point[device], self.next_channel[device]
        self.seconds_left[device] = self.profile.seconds[self.point[device]]
        self.bits_left[device] = self.profile.bits[self.point[device]]
        self.doing[device] = _SENDING if self.point[device] == 0 else _COMPUTING

    def _advance(self, device: int, step: float, rate: float) -> float:
        """Let `step` seconds go by; the joules that took."""
        if self.doing[device] == _COMPUTING:
            self.seconds_left[device] -= step
            return self.profile.watts[self.point[device]] * step
        if self.doing[device] == _SENDING:
            self.bits_left[device] -= rate * step
            return self.power[device] * step
        return 0.0

    def _arrive(self, device: int, rate: float) -> int:
        """What follows on what is done now; 1 if a task is finished."""
        if self.doing[device] == _COMPUTING and self.seconds_left[device] <= _DONE:
            self.seconds_left[device] = 0.0
            if self.point[device] != self.profile.last:
                self.doing[device] = _SENDING
                return 0
        elif self.doing[device] == _SENDING and self.bits_left[device] <= _DONE * rate:
            self.bits_left[device] = 0.0
        else:
            return 0
        self.left[device] -= 1
        self._begin(device)
        return 1

    def _observe(self) -> np.ndarray:
        low, high = self.settings.distances
        parts = (
            self.left / self.total,
            self.seconds_left / (self.profile.time_scale or self.profile.seconds[-1]),
            self.bits_left / IMAGE_BITS,
            (self.distance - low) / (high - low),
        )
        return np.stack(parts, axis=1).flatten()


def _numbers(name: str, values) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: got {values!r}, accepted are numbers.") from error


def _short(value) -> str:
    """A value on one line, of a long one its beginning."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
