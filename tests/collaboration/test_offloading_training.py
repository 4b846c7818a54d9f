"""Agents learn in the simulated cell."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from hf_effmodels import cli
from hf_effmodels.collaboration.offloading import PROFILES, OffloadingEnvironment, OffloadingSettings
from hf_effmodels.collaboration.offloading import training as learning
from hf_effmodels.collaboration.offloading.ppo import action_losses, advantages
from hf_effmodels.collaboration.offloading.training import (
    OffloadingAgents,
    OffloadingTraining,
    agents_loss,
    baselines,
    measure,
    profile_from,
    train,
)

CELL = OffloadingSettings(devices=3, channels=2, tasks=20, max_power=0.5)


def test_actors_at_once_are_the_actors_one_by_one():
    agents, seen = OffloadingAgents(CELL, 6, seed=0), torch.rand(7, 12)
    t = OffloadingTraining(clip=0.1, entropy_weight=0.05)
    drawn = {"point": torch.randint(6, (3, 7)), "channel": torch.randint(2, (3, 7)), "power": torch.rand(3, 7)}
    old = {name: torch.randn(3, 7) - 1 for name in drawn}
    advantage, expected = torch.randn(7), []
    for device in range(3):
        actor = agents.actor(device)
        alone, together = actor(seen), agents.distributions(seen)
        for mine, ours in zip(alone[:2], together[:2], strict=True):
            torch.testing.assert_close(ours.probs[device], mine.probs)
        torch.testing.assert_close(together[2].mean[device], alone[2].mean)
        torch.testing.assert_close(together[2].stddev[device], alone[2].stddev)
        own = [{name: table[device] for name, table in tables.items()} for tables in (drawn, old)]
        expected.append(action_losses(actor, seen, *own, advantage, clip=0.1, entropy_weight=0.05)["loss"])
    found = agents_loss(agents, seen, drawn, old, advantage, t)
    torch.testing.assert_close(found, torch.stack(expected).mean())
    random = torch.Generator().manual_seed(0)
    many = [agents.draw(seen[0].numpy(), random) for _ in range(400)]
    shares = torch.tensor(np.stack([points for points, _, _ in many])).float()
    probabilities = agents.distributions(seen[:1])[0].probs[:, 0]
    expected = (probabilities * torch.arange(6)).sum(-1)
    torch.testing.assert_close(shares.mean(0), expected.detach(), atol=0.3, rtol=0)
    assert all(((0 <= powers) & (powers <= 0.5)).all() for _, _, powers in many)
    assert not torch.equal(agents.actor(0).base[0].weight, agents.actor(1).base[0].weight)


def test_the_likeliest_decisions_are_those_of_the_largest_probabilities():
    agents, seen = OffloadingAgents(CELL, 6, seed=4), np.random.default_rng(1).random(12)
    point, channel, power = agents.distributions(torch.from_numpy(seen).float()[None])
    points, channels, powers = agents.decide(seen)
    assert points.tolist() == point.probs[:, 0].argmax(-1).tolist()
    assert channels.tolist() == channel.probs[:, 0].argmax(-1).tolist() and len({*points, *channels}) > 1
    np.testing.assert_allclose(powers, power.mean[:, 0].detach().numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match="points: got 1"):
        OffloadingAgents(CELL, 1)
    state = torch.get_rng_state()
    OffloadingAgents(CELL, 6, seed=4)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left as it is"


def test_one_slot_that_is_left_over_is_not_learnt_from():
    told = []
    train(OffloadingEnvironment("resnet18", CELL), OffloadingTraining(steps=9, buffer=4, batch=4, reuse=1),
          lambda step, reward: told.append(step))  # fmt: skip
    assert told == [4, 8]


@pytest.mark.parametrize("seed", [0, 7])
def test_agents_begin_with_the_weights_of_their_seed_and_learn_from_a_buffer_shorter_than_a_batch(seed):
    begun = OffloadingAgents(CELL, 6, seed=seed).weights
    for rate, moves in ((1e-12, False), (1e-2, True)):
        options = OffloadingTraining(steps=4, buffer=4, batch=64, reuse=1, learning_rate=rate, seed=seed)
        learnt = train(OffloadingEnvironment("resnet18", CELL), options).weights
        same = [torch.allclose(value, learnt[name], atol=1e-6) for name, value in begun.items()]
        assert not any(same) if moves else all(same)


def test_the_release_compares_each_power_with_every_slot():
    agents, seen = OffloadingAgents(CELL, 6, seed=1), torch.rand(4, 12)
    drawn = {"point": torch.randint(6, (3, 4)), "channel": torch.randint(2, (3, 4)), "power": torch.rand(3, 4)}
    with torch.no_grad():
        old = {n: d.log_prob(drawn[n]) for n, d in zip(drawn, agents.distributions(seen), strict=True)}
    advantage, weight = torch.tensor([1.0, -2.0, 0.5, 0.25]), 0.001
    right = agents_loss(agents, seen, drawn, old, advantage, OffloadingTraining())
    found = agents_loss(agents, seen, drawn, old, advantage, OffloadingTraining(released=True))
    power, terms = agents.distributions(seen)[2], []
    for device in range(3):
        for i in range(4):
            own = torch.distributions.Normal(power.mean[device, i], power.stddev[device, i])
            for j in range(4):
                ratio = (own.log_prob(drawn["power"][device, j]) - old["power"][device, j]).exp()
                better = torch.minimum(advantage[j] * ratio, advantage[j] * ratio.clamp(0.8, 1.2))
                terms.append(-better - weight * own.entropy())
    per_slot = (-advantage - weight * power.entropy()).mean()  # new and old are the same: ratios of one
    torch.testing.assert_close(3 * (found - right), torch.stack(terms).mean() - per_slot, atol=1e-5, rtol=1e-4)


def test_what_follows_the_end_of_a_cut_off_episode_does_not_count():
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.5, 2.5])
    following, done, cut = torch.tensor([1.5, 9.0, 4.0]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    targets, found = advantages(rewards, values, done, gamma=0.5, lam=0.25, following=following, cut=cut)
    assert targets.tolist() == [1.75, 6.5, 3.0]
    errors = [1.25, 5.0, 0.5]
    raw = torch.tensor([errors[0] + 0.125 * errors[1], errors[1], errors[2]])
    torch.testing.assert_close(found, (raw - raw.mean()) / (raw.std() + 1e-5))


def test_agents_learn_and_the_seed_says_what():
    def learnt(**options):
        options = {"steps": 1536, "buffer": 256, "batch": 64, "reuse": 5, "learning_rate": 1e-3, **options}
        curve = []
        agents = train(
            OffloadingEnvironment("resnet18", CELL), OffloadingTraining(**options), lambda *s: curve.append(s)
        )
        return agents, curve

    agents, curve = learnt()
    assert [step for step, _ in curve] == [256 * i for i in range(1, 7)]
    assert curve[-1][1] > curve[0][1] * 0.9  # rewards are costs, below nought
    short = {"steps": 300, "buffer": 128, "reuse": 2}
    same, again, other, released = (
        learnt(**short, **options)[0].weights["base.0.weight"] for options in ({}, {}, {"seed": 1}, {"released": True})
    )
    assert torch.equal(same, again) and not torch.equal(same, other) and not torch.equal(same, released)
    with pytest.raises(ValueError, match="learning_rate: got 1e.30, with which"):
        learnt(**short, learning_rate=1e30)
    with pytest.raises(ValueError, match="seed: got -1"):
        OffloadingTraining(seed=-1)


#: Nobody is ever done here, and an episode is cut off after three slots.
LONG = OffloadingSettings(devices=2, channels=2, tasks=400, max_slots=3)


@pytest.mark.parametrize("released", [False, True])
def test_what_is_learnt_from_is_told_with_its_ends_and_the_fading_that_is_asked_for(monkeypatch, released):
    """What a cut-off episode would have led to is what the slot led to, not the beginning of the next one."""
    seen, resets, led_to, made, real = [], [], [], [], OffloadingAgents

    class Cell(OffloadingEnvironment):
        def reset(self, **options):
            resets.append(options)
            return super().reset(**options)

        def step(self, action):
            told = super().step(action)
            led_to.append(torch.from_numpy(told[0]).float())
            return told

    monkeypatch.setattr(learning, "OffloadingAgents", lambda *given: made.append(real(*given)) or made[0])

    def watched(rewards, values, done, **options):
        seen.append((done.tolist(), options))
        if not released:
            torch.testing.assert_close(options["following"], made[0].critic(torch.stack(led_to[-7:])))
        return advantages(rewards, values, done, **options)

    monkeypatch.setattr(learning, "advantages", watched)
    options = {"steps": 14, "buffer": 7, "batch": 7, "reuse": 1, "gamma": 0.5, "lam": 0.25, "seed": 3}
    train(Cell("resnet18", LONG), OffloadingTraining(**options, released=released))
    assert resets == [{"seed": 3}, *[{}] * 4], "a cut-off episode is followed by a new one"
    assert [done for done, _ in seen] == [[0.0] * 7] * 2
    for (_, told), cut in zip(seen, ([0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0, 0]), strict=True):
        assert (told["gamma"], told["lam"], told["released"]) == (0.5, 0.25, released)
        if released:
            assert told.keys() == {"gamma", "lam", "released"}
        else:
            assert told["cut"].tolist() == cut


@pytest.mark.parametrize(
    "sizes, updates",
    [
        ({"steps": 12, "buffer": 8, "batch": 4, "reuse": 3}, [6, 3]),  # the last buffer is half as long
        ({"steps": 8, "buffer": 4, "batch": 8, "reuse": 2}, [1, 1]),
        ({"steps": 6, "buffer": 6, "batch": 64, "reuse": 1}, [1]),  # once at least
        ({"steps": 6, "buffer": 10, "batch": 2, "reuse": 2}, [6]),
    ],
)
def test_each_slot_is_used_as_often_as_is_asked_for_in_the_mean(monkeypatch, sizes, updates):
    counted = []

    def watched(agents, observation, *others):
        counted[-1].append(len(observation))
        return agents_loss(agents, observation, *others)

    def begun(*given, **options):
        counted.append([])
        return advantages(*given, **options)

    monkeypatch.setattr(learning, "agents_loss", watched)
    monkeypatch.setattr(learning, "advantages", begun)
    train(OffloadingEnvironment("resnet18", LONG), OffloadingTraining(**sizes))
    assert counted == [[sizes["batch"]] * number for number in updates]


def test_a_seed_is_that_of_what_is_drawn_too(monkeypatch):
    """Of the same actors in the same cell the first decisions are others by another seed."""
    real, decided = OffloadingAgents, []
    monkeypatch.setattr(learning, "OffloadingAgents", lambda settings, points, seed: real(settings, points, 0))

    class Cell(OffloadingEnvironment):
        def reset(self, *, seed=None):
            return super().reset(seed=0)

        def step(self, action):
            decided[-1].append(np.concatenate(action))
            return super().step(action)

    for seed in (1, 1, 2):
        decided.append([])
        train(Cell("resnet18", LONG), OffloadingTraining(steps=4, buffer=4, batch=4, reuse=1, seed=seed))
    assert np.array_equal(decided[0], decided[1]) and not np.array_equal(decided[0], decided[2])


def test_baselines_are_what_a_pencil_gives():
    environment = OffloadingEnvironment("resnet18", CELL)
    profile, decide = PROFILES["resnet18"], baselines(environment)
    local = measure(environment, decide["all_local"])
    # Ten tasks and a part in each slot of half a second; twenty are done in the second one.
    assert local == {
        "seconds": pytest.approx(2 * 0.5 / 20),
        "joules": pytest.approx(profile.watts[5] * profile.seconds[5]),
        "finished": 60,
        "slots": 2,
        "done": True,
    }
    observation, _ = OffloadingEnvironment("resnet18", OffloadingSettings(devices=3, fixed=True)).reset()
    points, channels, powers = decide["all_edge"](observation)
    assert points.tolist() == [0, 0, 0] and channels.tolist() == [0, 1, 0] and powers.tolist() == [0.5] * 3
    heard, profile = 0.5 * 50.0**-3, PROFILES["resnet18"]
    rates = [1e6 * np.log2(1 + heard / (1e-9 + others * heard)) for others in (1, 0, 1)]
    rows = list(zip(profile.seconds, profile.bits, profile.watts, strict=True))
    costs = [[seconds * (1 + watts) + 1.5 * bits / rate for seconds, bits, watts in rows] for rate in rates]
    assert decide["greedy"](observation)[0].tolist() == np.argmin(costs, axis=1).tolist()
    assert len(set(decide["greedy"](observation)[0].tolist())) == 2  # who has a channel alone offloads
    assert measure(environment, decide["all_edge"], most_slots=3)["done"] is False
    # Turns: those with most tasks left, at the rate of a channel of their own; the others compute.
    rate = 1e6 * np.log2(1 + heard / 1e-9)
    best = int(np.argmin([seconds * (1 + watts) + 1.5 * bits / rate for seconds, bits, watts in rows]))
    observation[[0, 4, 8]] = 0.5, 0.7, 0.9
    points, channels, powers = decide["turns"](observation)
    assert points.tolist() == [profile.last, best, best] and 0 < best < profile.last
    assert channels.tolist() == [0, 1, 0] and powers.tolist() == [0.5] * 3


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0, 30.0])
@pytest.mark.parametrize("network", ["resnet18", "vgg11"])
def test_who_is_greedy_weighs_energy_as_the_cell_does_and_sees_how_far_each_device_is(network, weight):
    options = {"distances": (20.0, 90.0), "bandwidth": 2e6, "noise": 1e-8, "path_loss_exponent": 2.5}
    cell = OffloadingSettings(devices=4, channels=2, energy_weight=weight, max_power=0.5, **options)
    environment, profile = OffloadingEnvironment(network, cell), PROFILES[network]
    distances = np.array([20.0, 35.0, 60.0, 90.0])
    observation, _ = environment.reset(seed=0, distances=distances)
    observation[[0, 4, 8, 12]] = 0.2, 0.9, 0.4, 0.8
    heard, rows = 0.5 * distances**-2.5, list(zip(profile.seconds, profile.bits, profile.watts, strict=True))

    def best(device: int, others: float) -> int:
        rate = 2e6 * np.log2(1 + heard[device] / (1e-8 + others))
        costs = [s + bits / rate + weight * (watts * s + 0.5 * bits / rate) for s, bits, watts in rows]
        return int(np.argmin(costs))

    decide = baselines(environment)
    assert decide["greedy"](observation)[0].tolist() == [best(d, heard[(d + 2) % 4]) for d in range(4)]
    points, channels, _ = decide["turns"](observation)  # the second and the last have most left
    assert points.tolist() == [profile.last, best(1, 0.0), profile.last, best(3, 0.0)]
    assert (channels[1], channels[3]) == (0, 1)


@pytest.mark.parametrize("most", [1, 3, 7])
def test_a_test_that_finishes_nothing_ends_after_the_slots_that_it_is_given(most):
    """A picture takes longer than these slots to be sent: the joules are spent, and no task to divide them by."""
    cell = OffloadingSettings(devices=2, channels=2, slot=0.001, bandwidth=1e3, max_power=0.5)
    profile = PROFILES["resnet18"]
    slow = profile_from({"bits": [1e6, 0], "seconds": [0, 10.0], "watts": [0, 3.0], "joules": [0, 30.0]})
    for used, point, watts in ((profile, 5, profile.watts[5]), (slow, 1, 3.0)):
        environment = OffloadingEnvironment(used, cell)
        decided = np.full(2, point), np.zeros(2), np.zeros(2)
        found = measure(environment, lambda seen, decided=decided: decided, most_slots=most)
        assert found == {
            "seconds": pytest.approx(2 * 0.001 * most), "joules": pytest.approx(2 * 0.001 * most * watts),
            "finished": 0, "slots": most, "done": False,
        }  # fmt: skip


def test_a_share_that_never_changes_is_no_faster_than_computing_alone_and_taking_turns_is():
    """Why agents that have learnt who may send save joules and no seconds: all wait for those who never may."""
    environment = OffloadingEnvironment("resnet18", OffloadingSettings())
    channels, loud = np.array([0, 1, 0, 1, 0]), np.ones(5)
    kept = measure(environment, lambda observation: (np.array([1, 1, 5, 5, 5]), channels, loud))
    found = {name: measure(environment, decide) for name, decide in baselines(environment).items()}
    assert kept["seconds"] == found["all_local"]["seconds"] and kept["joules"] < 0.7 * found["all_local"]["joules"]
    assert found["turns"]["seconds"] < 0.6 * found["all_local"]["seconds"]
    assert found["turns"]["joules"] < 0.5 * found["all_local"]["joules"]


def test_the_cell_is_an_environment_of_gymnasium():
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    from hf_effmodels.collaboration.offloading.gymnasium_environment import NAME, GymnasiumOffloading

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(GymnasiumOffloading("vgg11", devices=2, tasks=40, max_power=0.3), skip_render_check=True)
    # In a released unit, or in the whole network's time.
    for network, most in (("vgg11", 0.1893 / 0.092876), ("resnet18", 1.0)):
        high = GymnasiumOffloading(network, devices=2).observation_space.high.reshape(2, 4)
        np.testing.assert_allclose(high, [[1, most, 1, 1]] * 2, rtol=1e-6)
    made, cell = gymnasium.make(NAME, settings=CELL), OffloadingEnvironment("resnet18", CELL)
    ours, theirs = made.reset(seed=4)[0], cell.reset(seed=4)[0]
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))
    made.action_space.seed(0)
    done = False
    while not done:
        action = made.action_space.sample()
        (ours, *mine), (theirs, *other) = made.step(action), cell.step(action)
        np.testing.assert_array_equal(ours, theirs.astype(np.float32).clip(0, None))
        assert mine == other and made.observation_space.contains(ours)
        done = mine[1] or mine[2]
    far = made.reset(options={"distances": [100.0, 1.0, 50.5]})[0]
    assert far[[3, 7, 11]].tolist() == [1.0, 0.0, 0.5]
    for call, message in (
        (lambda: made.reset(options={"distance": 1}), "options: got distance"),
        (lambda: GymnasiumOffloading(settings=CELL, devices=2), "settings: got some, and devices"),
        (lambda: GymnasiumOffloading("vgg16"), "profile: got 'vgg16'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_agents_come_back_out_of_their_folder(tmp_path):
    agents, seen = OffloadingAgents(CELL, 6, seed=3), np.random.default_rng(0).random(12)
    agents.save(tmp_path, PROFILES["vgg11"])
    loaded, profile = OffloadingAgents.load(tmp_path)
    assert profile == PROFILES["vgg11"] and loaded.settings == CELL
    for mine, theirs in zip(agents.decide(seen), loaded.decide(seen), strict=True):
        assert np.array_equal(mine, theirs)
    state = torch.rand(2, 12)
    assert torch.equal(agents.critic(state), loaded.critic(state))
    weights, settings = (tmp_path / name for name in ("policy.safetensors", "policy.json"))
    kept = {file: file.read_bytes() for file in (weights, settings)}
    tensors = load_file(weights)
    narrow = {name: v[:1].clone() if name.startswith("actors") else v for name, v in tensors.items()}
    for file, content in (
        (weights, None),
        (weights, b"\x80\x04broken"),
        (weights, save(narrow)),  # of one device, which would stand for all
        (settings, b"no JSON"),
        (settings, b"[]"),
        (settings, kept[settings].replace(b'"slot": 0.5', b'"slot": "0.5"')),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match=f"folder: {tmp_path} holds no agents"):
            OffloadingAgents.load(tmp_path)
        file.write_bytes(kept[file])
    (tmp_path / "notes.txt").write_text("mine")
    OffloadingAgents(CELL, 6, seed=8).save(tmp_path, PROFILES["resnet18"])
    assert OffloadingAgents.load(tmp_path)[1] == PROFILES["resnet18"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="no list 'watts'"):
        profile_from({"bits": [1, 0], "seconds": [0, 1]})


def test_the_command_does_what_is_published_unless_it_is_told_otherwise(monkeypatch, tmp_path):
    called = []

    def watched(environment, training, told):
        called.append((environment, training))
        raise ValueError("it is enough")

    monkeypatch.setattr(learning, "train", watched)
    plain = ["offload", "--output", str(tmp_path / "out")]
    more = {"profile": "vgg11", "steps": 40, "seed": 3, "learning-rate": 0.5, "devices": 2, "channels": 3, "tasks": 7}
    more |= {"slot": 0.25, "energy-weight": 0.5, "bandwidth": 2e6}
    assert cli.main(plain) == 2
    assert cli.main([*plain, *(str(w) for n, v in more.items() for w in (f"--{n}", v)), "--released"]) == 2
    (first, published), (second, told) = called
    assert (first.profile, first.settings) == (PROFILES["resnet18"], OffloadingSettings())
    assert published == OffloadingTraining()
    cell = {"devices": 2, "channels": 3, "tasks": 7, "slot": 0.25, "energy_weight": 0.5, "bandwidth": 2e6}
    assert (second.profile, second.settings) == (PROFILES["vgg11"], OffloadingSettings(**cell))
    assert told == OffloadingTraining(steps=40, seed=3, learning_rate=0.5, released=True)


def test_a_file_whose_points_have_no_costs_is_refused(tmp_path, capsys):
    costs = {"bits": [1e6, 0], "seconds": [0, 0.1], "watts": [0, 2], "joules": [0, 0.2]}
    (tmp_path / "costs.json").write_text(json.dumps({"points": [{"at": name} for name in "abc"], "profile": costs}))
    words = ["--profile", str(tmp_path / "costs.json"), "--output", str(tmp_path / "out")]
    assert cli.main(["offload", *words]) == 2
    assert "--profile: " in (said := capsys.readouterr().err) and "has 3 points and costs of 2" in said
    assert profile_from(costs | {"time_scale": 0.5}).time_scale == 0.5


@pytest.mark.draws
def test_the_command_trains_compares_and_says_where_to_cut(tmp_path, capsys):
    costs = {
        "points": [{"at": "image"}, {"at": "stages.0"}, {"at": "whole"}],
        "profile": {"bits": [1e6, 1e4, 0], "seconds": [0, 0.01, 0.1], "watts": [0, 2, 2], "joules": [0, 0.02, 0.2]},
    }
    file, out = tmp_path / "costs.json", tmp_path / "out"
    file.write_text(json.dumps(costs))
    options = ["--devices", "2", "--tasks", "10", "--steps", "40", "--seed", "3"]
    assert cli.main(["offload", "--profile", str(file), "--output", str(out), *options]) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert (
        set(results["compared"]) == {"all_local", "all_edge", "greedy", "turns", "agents", "likeliest"}
        and "simulated" in said
    )
    assert all(d["after"] in ("image", "stages.0", "whole") for d in results["first_decisions"])
    assert results["curve"][0][0] == 40 and (out / "results.png").stat().st_size > 1000
    assert OffloadingAgents.load(out)[1].bits == (1e6, 1e4, 0.0)
    # Once more into the same folder, with a file of one's own beside; but not into somebody else's.
    (out / "notes.txt").write_text("mine")
    again = ["offload", "--profile", str(file), "--output", str(out), *options]
    assert cli.main(again) == 2 and "--output: " in (said := capsys.readouterr().err) and "--overwrite" in said
    assert cli.main([*again, "--overwrite"]) == 0
    assert (out / "notes.txt").read_text() == "mine" and OffloadingAgents.load(out)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "results.json").write_text("theirs")
    with pytest.raises(FileExistsError, match="theirs was not written by this command"):
        cli.PASSED_ON["offload"](["--profile", str(file), "--output", str(tmp_path / "theirs"), *options])
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["results.json"]
    (tmp_path / "no.json").write_text("{}")
    (tmp_path / "list.json").write_text("[1]")
    costs["profile"]["bits"] = [1e6, -1e4, 0]
    (tmp_path / "less.json").write_text(json.dumps(costs))
    for argv, message in (
        ([], "--output: name a folder"),
        (["--output", "x", "--profile", "vgg16"], "--profile: got 'vgg16', accepted are vgg11"),
        (["--output", "x", "--profile", str(tmp_path / "no.json")], "is no file of measure-split"),
        (["--output", "x", "--profile", str(tmp_path / "list.json")], "no file of measure-split: it holds no mapping"),
        (
            ["--output", "x", "--profile", str(tmp_path / "less.json")],
            "bits: got -10000.0, accepted are numbers from 0",
        ),
        (["--output", "x", "--devices", "0"], "--devices: got 0"),
        (["--output", "x", "--bandwidth", "0"], "--bandwidth: got 0"),
        (["--output", "x", "--steps", "1"], "--steps: got 1, accepted are whole numbers from 2"),
        (["--output", "x", "--learning-rate", "nan"], "--learning-rate: got nan"),
    ):
        with pytest.raises(ValueError) as refused:
            cli.PASSED_ON["offload"](argv)
        assert message in str(refused.value)
