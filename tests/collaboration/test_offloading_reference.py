"""The training of MAHPPO's agents beside a loop of its own: modules one by one, plain Adam, sums of errors."""

import pytest
import torch
from torch.distributions import Categorical, Normal

from hf_effmodels.collaboration.offloading import OffloadingEnvironment, OffloadingSettings
from hf_effmodels.collaboration.offloading.training import OffloadingAgents, OffloadingTraining, train


class Adam:
    """https://arxiv.org/abs/1412.6980, algorithm 1."""

    def __init__(self, weights, rate: float):
        self.weights, self.rate, self.steps = list(weights), rate, 0
        self.first, self.second = ([torch.zeros_like(w) for w in self.weights] for _ in range(2))

    def step(self, loss: torch.Tensor) -> None:
        self.steps += 1
        for n, gradient in enumerate(torch.autograd.grad(loss, self.weights)):
            self.first[n] = 0.9 * self.first[n] + 0.1 * gradient
            self.second[n] = 0.999 * self.second[n] + 0.001 * gradient**2
            mean, square = self.first[n] / (1 - 0.9**self.steps), self.second[n] / (1 - 0.999**self.steps)
            self.weights[n].data -= self.rate * mean / (square.sqrt() + 1e-8)


@pytest.mark.parametrize(
    "cell, options",
    [
        (
            {"devices": 2, "tasks": 400, "max_slots": 3},
            {"gamma": 0.8, "lam": 0.6, "clip": 0.1, "entropy_weight": 0.05},
        ),
        ({"devices": 3, "tasks": 4, "max_power": 0.5}, {"gamma": 0.5, "lam": 0.9, "clip": 0.3, "entropy_weight": 0.0}),
    ],
    ids=["episodes are cut off", "episodes are done"],
)
def test_agents_learn_by_clipped_ratios_and_the_critic_by_what_followed(cell, options):
    settings = OffloadingSettings(channels=2, **cell)
    how = {"steps": 17, "buffer": 11, "batch": 5, "reuse": 2, "learning_rate": 2e-3, "seed": 5}
    curve = []
    found = train(
        OffloadingEnvironment("vgg11", settings),
        OffloadingTraining(**how, **options),
        lambda step, reward: curve.append((step, reward)),
    )

    environment = OffloadingEnvironment("vgg11", settings)
    begun = OffloadingAgents(settings, environment.profile.last + 1, seed=5)
    actors, critic = [begun.actor(device) for device in range(settings.devices)], begun.critic
    actors_adam = Adam((w for actor in actors for w in actor.parameters()), 2e-3)
    critic_adam = Adam(critic.parameters(), 2e-3)
    draw = torch.Generator().manual_seed(5)
    seen, _ = environment.reset(seed=5)
    ended = []
    for number, count in enumerate((11, 6)):
        slots = []
        for _ in range(count):
            seen = torch.from_numpy(seen).float()
            with torch.no_grad():
                said = [actor(seen[None]) for actor in actors]
                points, channels = (
                    torch.multinomial(torch.cat([of[part].probs for of in said]), 1, generator=draw)[:, 0]
                    for part in (0, 1)
                )
                powers = torch.normal(
                    torch.cat([of[2].mean for of in said]), torch.cat([of[2].stddev for of in said]), generator=draw
                )
            sent = powers.double().clamp(0, settings.max_power)
            after, reward, done, cut, _ = environment.step((points.numpy(), channels.numpy(), sent.numpy()))
            slots.append((seen, (points, channels, powers), reward, torch.from_numpy(after).float(), done, cut))
            ended.append((done, cut))
            seen = environment.reset()[0] if done or cut else after
        assert curve[number][0] == (11, 17)[number]
        assert curve[number][1] == pytest.approx(sum(slot[2] for slot in slots) / count)

        with torch.no_grad():
            targets, errors = [], []
            for here, _, reward, after, done, _ in slots:
                targets.append(reward + (0 if done else options["gamma"] * critic(after[None])[0]))
                errors.append(targets[-1] - critic(here[None])[0])
            better = []
            for first in range(count):
                total, weight = 0.0, 1.0
                for slot in range(first, count):
                    total += weight * errors[slot]
                    weight *= options["gamma"] * options["lam"]
                    if slots[slot][4] or slots[slot][5]:
                        break
                better.append(total)
            better, targets = torch.stack(better), torch.stack([torch.as_tensor(t) for t in targets]).float()
            better = (better - better.mean()) / (better.std() + 1e-5)
            heres = torch.stack([slot[0] for slot in slots])
            acts = [torch.stack([slot[1][part] for slot in slots]) for part in range(3)]
            before = [[said.log_prob(act[:, d]) for said, act in zip(actor(heres), acts, strict=True)]
                      for d, actor in enumerate(actors)]  # fmt: skip
        for _ in range(2 * count // 5):
            at = torch.randint(count, (5,), generator=draw)
            terms = []
            for d, actor in enumerate(actors):
                for part, said in enumerate(actor(heres[at])):
                    assert isinstance(said, (Categorical, Categorical, Normal)[part])
                    ratio = (said.log_prob(acts[part][at, d]) - before[d][part][at]).exp()
                    bound = ratio.clamp(1 - options["clip"], 1 + options["clip"])
                    gain = torch.where(ratio * better[at] < bound * better[at], ratio, bound) * better[at]
                    terms.append(-gain - options["entropy_weight"] * said.entropy())
            wrong = (critic(heres[at]) - targets[at]).square().mean()
            actors_adam.step(torch.stack(terms).mean())
            critic_adam.step(wrong)
    assert any(cut if "max_slots" in cell else done for done, cut in ended)

    for device, actor in enumerate(actors):
        for name, weight in actor.named_parameters():
            torch.testing.assert_close(found.weights[name][device], weight, atol=3e-4, rtol=0)
    for ours, weight in zip(found.critic.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(ours, weight, atol=3e-4, rtol=0)
