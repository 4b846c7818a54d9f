"""Training of MAHPPO's agents in the simulated cell, and what others would have decided
(https://arxiv.org/abs/2205.11854)."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

from ..._files import whole_folder
from ..._numbers import check_whole
from .channel import uplink_rates
from .environment import LEAST_POWER, OffloadingEnvironment
from .policy import OffloadingActor, OffloadingCritic
from .ppo import advantages, clipped_loss
from .profiles import SplitProfile, profile_from
from .settings import OffloadingSettings, OffloadingTraining

logger = logging.getLogger(__name__)

#: An observation -> points, channels, powers, (devices,) each.
Decide = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
WEIGHTS, SETTINGS = "policy.safetensors", "policy.json"
_PARTS = ("point", "channel", "power")


class OffloadingAgents:
    """An actor for each device, computed at once: weights (devices, ...) under the names of `OffloadingActor`.

    Args:
        settings: of the cell.
        points: to choose from.
        seed: of the weights; None leaves torch's generator as it is.
    """

    def __init__(self, settings: OffloadingSettings, points: int, seed: int | None = None):
        check_whole(2, points=points)
        self.settings, self.points = settings, points
        size = 4 * settings.devices
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
            actors = [
                OffloadingActor(size, points, settings.channels, settings.max_power) for _ in range(settings.devices)
            ]
            self.critic = OffloadingCritic(size)
        states = [actor.state_dict() for actor in actors]
        self.weights = {n: nn.Parameter(torch.stack([s[n] for s in states])) for n in states[0]}

    def actor(self, device: int) -> OffloadingActor:
        """That of one device, as a module of its own."""
        s = self.settings
        actor = OffloadingActor(4 * s.devices, self.points, s.channels, s.max_power)
        actor.load_state_dict({name: value[device].detach() for name, value in self.weights.items()})
        return actor

    def distributions(self, observation: torch.Tensor) -> tuple[Categorical, Categorical, Normal]:
        """Of (batch, observation size) those of all devices, (devices, batch)."""
        point, channel, mean, deviation = self._outputs(observation)
        return (
            Categorical(logits=point, validate_args=False),
            Categorical(logits=channel, validate_args=False),
            Normal(mean, deviation, validate_args=False),
        )

    def _outputs(self, observation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of points and channels, (devices, batch, ...), and mean and deviation of powers, (devices, batch)."""
        hidden = observation.expand(self.settings.devices, *observation.shape)
        hidden = self._linear("base.2", self._linear("base.0", hidden).relu()).relu()

        def head(name: str) -> torch.Tensor:
            return self._linear(f"{name}.2", self._linear(f"{name}.0", hidden).relu())

        mean = torch.sigmoid(head("power_mu_header")) * (self.settings.max_power - LEAST_POWER) + LEAST_POWER
        deviation = F.softplus(head("power_sigma_header"))
        return head("point_header"), head("channel_header"), mean.squeeze(-1), deviation.squeeze(-1)

    def _linear(self, name: str, values: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return torch.baddbmm(bias[:, None], values, weight.transpose(1, 2))

    @torch.no_grad()
    def decide(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The likeliest point and channel of each device, and its mean power."""
        point, channel, power = self.distributions(torch.from_numpy(observation).float()[None])
        return (
            point.logits.argmax(-1)[:, 0].numpy(),
            channel.logits.argmax(-1)[:, 0].numpy(),
            power.mean[:, 0].double().clamp(0, self.settings.max_power).numpy(),
        )

    @torch.no_grad()
    def draw(self, observation: np.ndarray, random: torch.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decisions as in training, and as the release is measured: drawn."""
        drawn = self.drawn(torch.from_numpy(observation).float(), random)
        return self.to_action(drawn)

    def drawn(self, observation: torch.Tensor, random: torch.Generator) -> dict[str, torch.Tensor]:
        """Of one observation, point, channel and power of each device; the power as it comes, unbounded."""
        point, channel, mean, deviation = self._outputs(observation[None])
        return {
            "point": torch.multinomial(point[:, 0].softmax(-1), 1, generator=random)[:, 0],
            "channel": torch.multinomial(channel[:, 0].softmax(-1), 1, generator=random)[:, 0],
            "power": torch.normal(mean[:, 0], deviation[:, 0], generator=random),
        }

    def to_action(self, drawn: Mapping[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the devices do: the power is cut off at its bounds."""
        power = drawn["power"].double().clamp(0, self.settings.max_power)
        return drawn["point"].numpy(), drawn["channel"].numpy(), power.numpy()

    def save(self, folder: str | Path, profile: SplitProfile) -> None:
        """Weights, and the cell and the network that they are for."""
        tensors = {f"actors.{n}": v.detach().contiguous() for n, v in self.weights.items()}
        tensors |= {f"critic.{n}": v.detach().contiguous() for n, v in self.critic.state_dict().items()}
        content = {"format": 1, "settings": asdict(self.settings), "profile": asdict(profile)}
        with whole_folder(folder, replaces=lambda name, path: name in (WEIGHTS, SETTINGS)) as new:
            save_file(tensors, new / WEIGHTS)
            (new / SETTINGS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> tuple["OffloadingAgents", SplitProfile]:
        """Agents and the profile of their network.

        Raises:
            ValueError: a folder that `save` has not written.
        """
        try:
            content = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
            settings = content["settings"]
            settings = OffloadingSettings(**{**settings, "distances": tuple(settings["distances"])})
            profile = profile_from(content["profile"])
            agents = cls(settings, profile.last + 1)
            tensors = load_file(Path(folder) / WEIGHTS)
            for name, value in agents.weights.items():
                if tensors[f"actors.{name}"].shape != value.shape:
                    raise ValueError(f"actors.{name} is of another shape.")
                value.data.copy_(tensors[f"actors.{name}"])
            critic = {n.removeprefix("critic."): v for n, v in tensors.items() if n.startswith("critic.")}
            agents.critic.load_state_dict(critic)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"folder: {folder} holds no agents: {error}") from error
        return agents, profile


def train(
    environment: OffloadingEnvironment,
    training: OffloadingTraining,
    told: Callable[[int, float], None] = lambda step, reward: None,
) -> OffloadingAgents:
    """Agents that have learnt in `environment`.

    Args:
        environment: its random numbers are begun anew.
        training: how.
        told: called after each update with the number of slots and the mean reward of the buffer.
    """
    t, s = training, environment.settings
    agents = OffloadingAgents(s, environment.profile.last + 1, t.seed)
    random = torch.Generator().manual_seed(t.seed)
    optimizers = [
        torch.optim.Adam(parameters, lr=t.learning_rate)
        for parameters in (agents.weights.values(), agents.critic.parameters())
    ]
    observation, _ = environment.reset(seed=t.seed)
    step = 0
    while step < t.steps:
        count = min(t.buffer, t.steps - step)
        if count < 2:
            break  # advantages of one slot have no deviation
        rows = []
        for _ in range(count):
            observation, row = _slot(environment, agents, observation, random)
            rows.append(row)
        step += count
        told(step, float(np.mean([row["reward"] for row in rows])))
        _update(agents, optimizers, rows, t, random)
    return agents


@torch.no_grad()
def _slot(environment, agents: OffloadingAgents, observation: np.ndarray, random: torch.Generator):
    """One slot by drawn decisions: the next observation, and what is learnt from."""
    seen = torch.from_numpy(observation).float()
    drawn = agents.drawn(seen, random)
    following, reward, done, cut, _ = environment.step(agents.to_action(drawn))
    row = {"observation": seen, "reward": reward, "done": float(done), "cut": float(cut), "actions": drawn}
    row["following"] = torch.from_numpy(following).float()
    if done or cut:
        following, _ = environment.reset()
    return following, row


def _update(agents: OffloadingAgents, optimizers, rows: list[dict], t: OffloadingTraining, random) -> None:
    observations = torch.stack([row["observation"] for row in rows])
    actions = {name: torch.stack([row["actions"][name] for row in rows], dim=1) for name in _PARTS}
    rewards, done, cut = (torch.tensor([row[name] for row in rows]) for name in ("reward", "done", "cut"))
    with torch.no_grad():
        old = dict(zip(_PARTS, agents.distributions(observations), strict=True))
        old = {name: distribution.log_prob(actions[name]) for name, distribution in old.items()}
        values = agents.critic(observations)
        options = {"gamma": t.gamma, "lam": t.lam, "released": t.released}
        if not t.released:
            following = agents.critic(torch.stack([row["following"] for row in rows]))
            options |= {"following": following, "cut": cut}
        targets, advantage = advantages(rewards, values, done, **options)
    for _ in range(t.reuse * len(rows) // t.batch or 1):
        chosen = torch.randint(len(rows), (t.batch,), generator=random)
        picked = ({name: table[:, chosen] for name, table in tables.items()} for tables in (actions, old))
        losses = (
            agents_loss(agents, observations[chosen], *picked, advantage[chosen], t),
            F.mse_loss(agents.critic(observations[chosen]), targets[chosen]),
        )
        for optimizer, loss in zip(optimizers, losses, strict=True):
            _check_finite(loss, t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for weight in (*agents.weights.values(), *agents.critic.parameters()):
        _check_finite(weight.sum(), t)


def _check_finite(value: torch.Tensor, t: OffloadingTraining) -> None:
    if not torch.isfinite(value):
        raise ValueError(
            f"learning_rate: got {t.learning_rate}, with which losses or weights are no numbers any more; accepted "
            "are smaller ones."
        )


def agents_loss(agents: OffloadingAgents, observation, actions, old, advantage, t: OffloadingTraining) -> torch.Tensor:
    """The mean of `clipped_loss` over devices and the three parts of an action.

    Args:
        observation: (batch, size).
        actions, old: point, channel, power -> (devices, batch).
        advantage: (batch,).
    """
    losses, options = [], {"clip": t.clip, "entropy_weight": t.entropy_weight}
    for name, distribution in zip(_PARTS, agents.distributions(observation), strict=True):
        if name == "power" and t.released:
            # (devices, slots, slots): each slot's mean with each slot's power, as the release broadcasts it.
            table = Normal(distribution.mean[..., None], distribution.stddev[..., None], validate_args=False)
            said = table.log_prob(actions[name][:, None])
            others = (old[name][:, None], advantage, distribution.entropy()[..., None])
        else:
            said, others = distribution.log_prob(actions[name]), (old[name], advantage, distribution.entropy())
        before, better, entropy = (value.expand_as(said) for value in others)
        losses.append(clipped_loss(said, before, better, entropy, **options))
    return torch.stack(losses).mean()


# What others would decide


def baselines(environment: OffloadingEnvironment) -> dict[str, Decide]:
    """`all_local`, `all_edge` (pictures, loudest), `greedy`, each with channels in turn; and `turns`.

    Greedy: each device takes the point of the smallest seconds + β joules, at the rate that it has if everybody sends
    as loud as can be on the channels in turn. Turns (not the paper's): in each slot the devices with most tasks left,
    as many as there are channels, take that point at the rate of a channel of their own; all others compute.
    """
    s, profile = environment.settings, environment.profile
    channels = np.arange(s.devices) % s.channels
    loud, quiet = np.full(s.devices, s.max_power), np.full(s.devices, LEAST_POWER)

    def best_points(observation: np.ndarray, shared: np.ndarray) -> np.ndarray:
        """Of each device, if everybody sends on these channels."""
        low, high = s.distances
        distance = low + (high - low) * observation.reshape(s.devices, 4)[:, 3]
        options = {"bandwidth": s.bandwidth, "noise": s.noise, "path_loss_exponent": s.path_loss_exponent}
        rates = uplink_rates(loud, distance, shared, np.ones(s.devices, dtype=bool), **options)
        sending = np.asarray(profile.bits) / rates[:, None]
        seconds = np.asarray(profile.seconds) + sending
        joules = np.asarray(profile.watts) * np.asarray(profile.seconds) + s.max_power * sending
        return (seconds + s.energy_weight * joules).argmin(1)

    def greedy(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return best_points(observation, channels), channels, loud

    def turns(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = np.argsort(-observation.reshape(s.devices, 4)[:, 0], kind="stable")[: s.channels]
        points, own = np.full(s.devices, profile.last), channels.copy()
        points[first] = best_points(observation, np.arange(s.devices))[first]
        own[first] = np.arange(len(first))
        return points, own, loud

    return {
        "all_local": lambda observation: (np.full(s.devices, profile.last), channels, quiet),
        "all_edge": lambda observation: (np.zeros(s.devices, dtype=np.int64), channels, loud),
        "greedy": greedy,
        "turns": turns,
    }


def measure(environment: OffloadingEnvironment, decide: Decide, *, seed: int = 0, most_slots: int = 5000) -> dict:
    """Seconds and joules of a task, in the mean over the published test: all tasks, everybody at 50 m.

    Returns:
        `seconds`, `joules`, `finished`, `slots`, and whether all tasks were done.
    """
    test = OffloadingEnvironment(environment.profile, replace(environment.settings, fixed=True, max_slots=most_slots))
    observation, _ = test.reset(seed=seed)
    seconds = joules = finished = slots = 0
    done = cut = False
    while not (done or cut):
        observation, _, done, cut, info = test.step(decide(observation))
        seconds, joules = seconds + info["seconds"], joules + info["joules"]
        finished, slots = finished + info["finished"], slots + 1
    of_a_task = max(finished, 1)
    return {
        "seconds": seconds / of_a_task,
        "joules": joules / of_a_task,
        "finished": finished,
        "slots": slots,
        "done": bool(done),
    }
