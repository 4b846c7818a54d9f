"""Proximal policy optimisation (https://arxiv.org/abs/1707.06347) of actions with several parts."""

from collections.abc import Mapping

import torch


def advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    done: torch.Tensor,
    *,
    gamma: float = 0.95,
    lam: float = 0.95,
    released: bool = False,
    following: torch.Tensor | None = None,
    cut: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the critic is to say, and by how much each step was better than it said.

    Targets are r + γ V of the next step, 0 after the last one and where an episode is done. Advantages sum up the
    errors with γ λ (generalised advantage estimation, https://arxiv.org/abs/1506.02438), and are then normalised.

    Args:
        rewards, values, done: (steps,), in order.
        released: sum up with λ alone, as MAHPPO's release does.
        following: (steps,), V of the observation that each step led to; without it that of the next step is taken, and
            0 after the last one.
        cut: (steps,), where an episode was cut off: the next step is of another one, yet V of its end counts.
    """
    alive = 1 - done.to(values.dtype)
    if following is None:
        following = torch.cat([values[1:], values.new_zeros(1)])
    goes_on = alive if cut is None else alive * (1 - cut.to(values.dtype))
    targets = rewards + gamma * alive * following
    errors, found, total = targets - values, [], values.new_zeros(())
    factor = lam if released else gamma * lam
    for step in range(len(errors) - 1, -1, -1):
        total = errors[step] + factor * goes_on[step] * total
        found.append(total)
    found = torch.stack(found[::-1])
    return targets, (found - found.mean()) / (found.std() + 1e-5)


def clipped_loss(
    log_probability: torch.Tensor,
    old_log_probability: torch.Tensor,
    advantage: torch.Tensor,
    entropy: torch.Tensor,
    *,
    clip: float = 0.2,
    entropy_weight: float = 1e-3,
) -> torch.Tensor:
    """Mean of -min(A r, A clip(r, 1 ± clip)) - entropy, with r the ratio of the probabilities; all are (batch,).

    Raises:
        ValueError: shapes that differ: broadcasting would compare every action with every step, as the release's power
            does.
    """
    shapes = {tuple(t.shape) for t in (log_probability, old_log_probability, advantage, entropy)}
    if len(shapes) != 1:
        raise ValueError(f"log_probability, ...: got the shapes {sorted(shapes)}, expected the same.")
    ratio = (log_probability - old_log_probability).exp()
    better = torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip))
    return (-better - entropy_weight * entropy).mean()


def action_losses(actor, observation, actions: Mapping[str, torch.Tensor], old, advantage, **options) -> dict:
    """`clipped_loss` of each part of an action, and `loss`, their mean.

    Args:
        actor: an `OffloadingActor`.
        observation: (batch, size).
        actions: `point`, `channel`, `power` -> (batch,), as they were drawn.
        old: the same keys -> log-probabilities when they were drawn.
        advantage: (batch,).
        options: see `clipped_loss`.
    """
    losses = {}
    for name, distribution in zip(("point", "channel", "power"), actor(observation), strict=True):
        said, entropy = distribution.log_prob(actions[name]), distribution.entropy()
        losses[name] = clipped_loss(said, old[name], advantage, entropy, **options)
    return losses | {"loss": torch.stack([*losses.values()]).mean()}
