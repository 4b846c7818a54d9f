"""The networks of MAHPPO (https://arxiv.org/abs/2205.11854): an actor for each device, one critic, all see all."""

import torch
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

from ..._numbers import check_positive, check_whole
from .environment import LEAST_POWER


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, out))


class OffloadingActor(nn.Module):
    """What a device decides: a cut point, a channel, and how loud.

    Args:
        observation_size: of all devices together.
        points, channels: to choose from.
        max_power: watts.
    """

    def __init__(self, observation_size: int, points: int = 6, channels: int = 2, max_power: float = 1.0):
        super().__init__()
        check_whole(1, observation_size=observation_size, points=points, channels=channels)
        check_positive(max_power=max_power)
        self.max_power = max_power
        self.base = nn.Sequential(nn.Linear(observation_size, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.point_header = _head(128, points)
        self.channel_header = _head(128, channels)
        self.power_mu_header = _head(128, 1)
        self.power_sigma_header = _head(128, 1)

    def forward(self, observation: torch.Tensor) -> tuple[Categorical, Categorical, Normal]:
        """Of (batch, observation size) the distributions of point, channel and power, one for each row.

        The power is drawn as it comes and is cut off at `max_power` only when it is used.
        """
        hidden = self.base(observation)
        mean = torch.sigmoid(self.power_mu_header(hidden)) * (self.max_power - LEAST_POWER) + LEAST_POWER
        deviation = F.softplus(self.power_sigma_header(hidden))
        return (
            Categorical(logits=self.point_header(hidden)),
            Categorical(logits=self.channel_header(hidden)),
            Normal(mean.squeeze(-1), deviation.squeeze(-1)),
        )


class OffloadingCritic(nn.Module):
    """What is still to come, by the observation of all devices."""

    def __init__(self, observation_size: int):
        super().__init__()
        check_whole(1, observation_size=observation_size)
        sizes = (observation_size, 256, 128, 64)
        layers = [m for a, b in zip(sizes[:-1], sizes[1:], strict=True) for m in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(64, 1))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """(batch,) of (batch, observation size)."""
        return self.net(observation).squeeze(-1)
