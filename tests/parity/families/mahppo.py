"""MAHPPO: overheads, the channel, rollouts of the cell, actor and critic, advantages, losses and the feature codec."""

from pathlib import Path

import numpy as np
import torch

from hf_effmodels.collaboration.codecs.pointwise import PointwiseCodec, quantize_code, reconstruction_loss
from hf_effmodels.collaboration.offloading import (
    PROFILES,
    OffloadingActor,
    OffloadingCritic,
    OffloadingEnvironment,
    OffloadingSettings,
)
from hf_effmodels.collaboration.offloading.channel import uplink_rates
from hf_effmodels.collaboration.offloading.ppo import action_losses, advantages, clipped_loss

from .. import golden

SYSTEMS = ("mahppo",)


def _overhead(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    profile = PROFILES[Path(case["path"]).stem.removeprefix("overhead_")]
    table = np.stack([profile.bits, profile.seconds, profile.joules, profile.watts], axis=1)
    return {"bits_latency_energy_power": torch.from_numpy(table)}


def _channel(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = {name: v.numpy() for name, v in golden.inputs(case, torch.float64).items()}
    c, users = case["config"], len(values["power"])
    options = {"bandwidth": c["width"], "noise": c["noise"], "path_loss_exponent": c["path_loss_exponent"]}
    everybody = np.ones(users, dtype=bool)
    shared = uplink_rates(values["power"], values["distance"], np.zeros(users), everybody, **options)
    alone = uplink_rates(values["power"], values["distance"], np.arange(users), everybody, **options)
    return {"rate_shared": torch.from_numpy(shared), "rate_alone": torch.from_numpy(alone)}


def _rollout(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    c, values = case["config"], golden.inputs(case, torch.float64)
    settings = OffloadingSettings(
        devices=c["num_users"],
        channels=c["num_channels"],
        tasks=c["tasks"],
        slot=c["slot_time"],
        energy_weight=c["beta"],
        max_power=c["pmax"],
        distances=(c["dmin"], c["dmax"]),
        bandwidth=c["width"],
        noise=c["noise"],
        path_loss_exponent=c["path_loss_exponent"],
        fixed=True,
    )
    environment = OffloadingEnvironment(c["net"], settings)
    start = c["deterministic_start"]
    assert (start["point"], start["channel"], start["power"]) == (5, 0, 1e-10)
    distance = (
        values["distance"].numpy() if start["distance"] == "input" else np.full(c["num_users"], start["distance"])
    )
    states, rows = [environment.reset(distances=distance)[0]], []
    for action in zip(values["point"].numpy(), values["channel"].numpy(), values["power"].numpy(), strict=True):
        state, reward, done, _, info = environment.step(action)
        states.append(state)
        rows.append([reward, float(done), info["seconds"], info["joules"], info["finished"]])
        if done:
            break
    rows = torch.tensor(rows, dtype=torch.float64)
    return {
        "states": torch.from_numpy(np.stack(states)),
        "rewards": rows[:, 0],
        "done": rows[:, 1],
        "info": rows[:, 2:],
    }


def _networks(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    c, weights = case["config"], golden.state_dict(case, dtype)
    actor = OffloadingActor(c["num_states"], c["num_points"], c["num_channels"], c["pmax"]).to(dtype)
    critic = OffloadingCritic(c["num_states"]).to(dtype)
    for name, module in (("actor", actor), ("critic", critic)):
        own = {n.removeprefix(f"{name}."): v for n, v in weights.items() if n.startswith(f"{name}.")}
        module.load_state_dict(own)
    state = golden.inputs(case, dtype)["state"]
    point, channel, power = actor(state)
    return {
        "prob_points": point.probs,
        "prob_channels": channel.probs,
        "power_mu": power.mean[:, None],
        "power_sigma": power.stddev[:, None],
        "value": critic(state)[:, None],
    }


def _advantages(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, c = golden.inputs(case, dtype), case["config"]
    done = (values["done_noise"] < 0.15).to(dtype)
    given = (values["rewards"], values["values"], done)
    options = {"gamma": c["gamma"], "lam": c["lam"]}
    targets, textbook = advantages(*given, **options)
    return {
        "target_values": targets,
        "advantages": advantages(*given, **options, released=True)[1],
        "advantages_textbook": textbook,
    }


def _losses(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, c = golden.inputs(case, dtype), case["config"]
    actor = OffloadingActor(c["num_states"], 6, c["num_channels"], c["pmax"]).to(dtype)
    actor.load_state_dict(golden.state_dict(case, dtype))
    actions = {name: values[name] for name in ("point", "channel", "power")}
    distributions = dict(zip(actions, actor(values["state"]), strict=True))
    said = {name: distributions[name].log_prob(action) for name, action in actions.items()}
    old = {name: (said[name] + shift).detach() for name, shift in zip(actions, values["old_shift"], strict=True)}
    options = {"clip": c["eps_clip"], "entropy_weight": c["w_entropy"]}
    losses = action_losses(actor, values["state"], actions, old, values["advantage"], **options)
    losses["loss"].backward()
    power, drawn = distributions["power"], values["power"]
    table = torch.distributions.Normal(power.mean[:, None], power.stddev[:, None]).log_prob(drawn)
    spread = [value.expand_as(table) for value in (old["power"], values["advantage"], power.entropy()[:, None])]
    results = {f"logprob_{name}": value for name, value in said.items()}
    results |= {f"entropy_{name}": distribution.entropy() for name, distribution in distributions.items()}
    results |= {f"loss_{name}": losses[name] for name in actions}
    results |= {"loss": losses["loss"], "loss_power_as_released": clipped_loss(table, *spread, **options)}
    parameters = dict(actor.named_parameters())
    return results | {n: parameters[n.removeprefix("grad.")].grad for n in case["outputs"] if n.startswith("grad.")}


def _codec(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    c, features = case["config"], golden.inputs(case, dtype)["feature"]
    codec = PointwiseCodec(c["in_channels"], c["shrink_factor"], c["qbit"]).to(dtype).eval()
    codec.load_state_dict(dict(golden.state_dict(case, dtype)))
    code, output = codec.encode(features), codec(features)
    results = {"code": code, "output": output, "loss_reconstruction": reconstruction_loss(output, features)}
    if c["qbit"] is not None:
        quantized = quantize_code(code, c["qbit"])
        results |= {"levels": quantized.levels, "dequantized": quantized.restore()}
    return results


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    if not config:
        return _overhead(case, dtype)
    for key, function in (
        ("net", _rollout),
        ("qbit", _codec),
        ("eps_clip", _losses),
        ("num_points", _networks),
        ("gamma", _advantages),
        ("width", _channel),
    ):
        if key in config:
            return function(case, dtype)
    raise ValueError(f"no such case: {case['variant']}")
