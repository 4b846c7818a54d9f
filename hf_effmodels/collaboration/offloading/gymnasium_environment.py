"""The simulated cell as an environment of gymnasium (https://gymnasium.farama.org), for agents from elsewhere."""

import gymnasium
import numpy as np
from gymnasium import spaces

from .environment import OffloadingEnvironment, OffloadingSettings
from .profiles import IMAGE_BITS, SplitProfile

#: For `gymnasium.make`, once this module has been imported.
NAME = "hf_effmodels/Offloading-v0"


class GymnasiumOffloading(gymnasium.Env):
    """`OffloadingEnvironment` for one agent that decides for all devices.

    Observations are those of the cell in float32: of each device tasks, computing and bits left, and distance. An
    action is a tuple of points, channels and powers in watts, (devices,) each.

    Args:
        profile: what the cut points cost, or the name of a published one.
        settings: the cell; or its fields, each by its name.
    """

    metadata = {"render_modes": []}

    def __init__(self, profile: SplitProfile | str = "resnet18", settings: OffloadingSettings | None = None, **fields):
        if settings is not None and fields:
            raise ValueError(f"settings: got some, and {', '.join(fields)} beside them; accepted is one or the other.")
        settings = settings or OffloadingSettings(**fields)
        self.cell = OffloadingEnvironment(profile, settings)
        costs, s = self.cell.profile, settings
        scale = costs.time_scale or costs.seconds[-1]
        most = [1.0, max(costs.seconds) / scale, max(costs.bits) / IMAGE_BITS, 1.0]
        self.observation_space = spaces.Box(0.0, np.tile(np.float32(most), s.devices), dtype=np.float32)
        self.action_space = spaces.Tuple(
            (
                spaces.MultiDiscrete([costs.last + 1] * s.devices),
                spaces.MultiDiscrete([s.channels] * s.devices),
                spaces.Box(0.0, s.max_power, (s.devices,), dtype=np.float64),
            )
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """A new episode; `options` may hold `distances`, metres of each device."""
        super().reset(seed=seed)
        options = dict(options or {})
        distances = options.pop("distances", None)
        if options:
            raise ValueError(f"options: got {', '.join(options)}, accepted is distances.")
        observation, info = self.cell.reset(seed=seed, distances=distances)
        return self._observed(observation), info

    def step(self, action) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One slot, see `OffloadingEnvironment.step`."""
        observation, *rest = self.cell.step(action)
        return self._observed(observation), *rest

    def _observed(self, observation: np.ndarray) -> np.ndarray:
        space = self.observation_space
        return observation.astype(np.float32).clip(space.low, space.high)


gymnasium.register(NAME, GymnasiumOffloading)
