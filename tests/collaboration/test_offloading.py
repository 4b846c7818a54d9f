"""The simulated cell and its policy, against what a pencil gives."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from hf_effmodels.collaboration.codecs.pointwise import PointwiseCodec, quantize_code, reconstruction_loss
from hf_effmodels.collaboration.offloading import (
    PROFILES,
    OffloadingActor,
    OffloadingCritic,
    OffloadingEnvironment,
    OffloadingSettings,
    SplitProfile,
)
from hf_effmodels.collaboration.offloading.ppo import advantages, clipped_loss
from hf_effmodels.collaboration.offloading.settings import OffloadingTraining


def cell(net="resnet18", **settings) -> OffloadingEnvironment:
    return OffloadingEnvironment(net, OffloadingSettings(**{"fixed": True, "tasks": 30, **settings}))


def all_take(point, devices, channel=0, power=0.5):
    return np.full(devices, point), np.full(devices, channel), np.full(devices, power)


def test_a_device_that_computes_all_needs_no_channel():
    environment = cell(devices=2)
    environment.reset()
    profile, left = PROFILES["resnet18"], 0.5
    tasks = int(left / profile.seconds[5])
    state, reward, done, cut, info = environment.step(all_take(5, 2))
    assert info["finished"] == 2 * tasks == 20 and not done and not cut
    joules = 0.5 * profile.watts[5]
    assert info["joules"] == pytest.approx(2 * joules) and reward == pytest.approx(-(0.5 + joules) / tasks)
    remaining = (tasks + 1) * profile.seconds[5] - 0.5
    assert state[:4] == pytest.approx([20 / 30, remaining / profile.seconds[5], 0, (50 - 1) / 99])


def test_those_on_one_channel_disturb_each_other():
    point, bits = 0, PROFILES["resnet18"].bits[0]
    seconds = {}
    for channels in (1, 2):
        environment = cell(devices=2, channels=channels, tasks=1, slot=0.01)
        environment.reset()
        environment.next_point[:] = environment.point[:] = point
        environment.channel[:] = [0, channels - 1]
        environment.doing[:] = 2
        environment.bits_left[:] = bits
        steps, done = 0, False
        while not done:
            # The power holds at once; the second device is not as loud.
            action = (np.zeros(2), np.array([0, channels - 1]), np.array([1.0, 0.5]))
            _, _, done, _, info = environment.step(action)
            steps += 1
        seconds[channels] = steps * 0.01
    heard = 50.0**-3
    alone = 1e6 * math.log2(1 + heard * 0.5 / 1e-9)
    assert seconds[2] == pytest.approx(bits / alone, abs=0.011)
    loud = 1e6 * math.log2(1 + heard / (1e-9 + heard * 0.5))
    quiet = 1e6 * math.log2(1 + heard * 0.5 / (1e-9 + heard))
    first = bits / loud
    assert seconds[1] == pytest.approx(first + (bits - first * quiet) / alone, abs=0.011)


def test_a_whisper_beside_a_shout_is_slow_and_not_nothing():
    environment = cell(devices=2)
    environment.reset()
    environment.distance = np.array([1.0, 100.0])
    environment.doing[:], environment.bits_left[:] = 2, PROFILES["resnet18"].bits[0]
    action = (np.zeros(2), np.zeros(2), np.array([1.0, 0.0]))  # the least power is 1e-10 watts
    _, _, done, _, info = environment.step(action)
    loud = PROFILES["resnet18"].bits[0] / (1e6 * math.log2(1 + 1e9))  # seconds a task
    assert not done and info["finished"] == int(0.5 / loud) == 12
    assert 0 < environment._rates({})[1] == pytest.approx(1e6 * 1e-16 / math.log(2), rel=1e-6)


def test_rates_and_rewards_follow_every_setting_of_the_cell():
    options = {"energy_weight": 0.3, "bandwidth": 2e6, "noise": 1e-4, "path_loss_exponent": 2.0, "slot": 0.25}
    environment = OffloadingEnvironment("resnet18", OffloadingSettings(devices=2, channels=1, fixed=True, **options))
    environment.reset()
    action = (np.zeros(2), np.zeros(2), np.array([0.5, 0.6]))
    environment.step(action)  # the first tasks are computed; pictures are under way when it ends
    before = environment.bits_left.copy()
    _, reward, _, _, spent = environment.step(action)
    # At 50 m 0.5 and 0.6 watts arrive as 1/5000 and 0.6/2500, each the other's noise beside a ten-thousandth.
    heard = [0.5 / 2500, 0.6 / 2500]
    rates = [2e6 * np.log2(1 + own / (1e-4 + other)) for own, other in (heard, heard[::-1])]
    np.testing.assert_allclose(before - environment.bits_left, 0.25 * np.array(rates), rtol=1e-9)
    assert spent == {"seconds": 0.5, "joules": pytest.approx(0.25 * 1.1), "finished": 0}
    assert reward == pytest.approx(-(0.25 + 0.3 * 0.25 * 0.55) / 0.8)


def test_a_decision_holds_from_the_next_task_on():
    environment = cell(devices=1, channels=1, slot=0.02)
    environment.reset()
    state, *_ = environment.step(all_take(2, 1))
    assert environment.point[0] == 5 and state[2] == 0
    for _ in range(2):
        state, *_ = environment.step(all_take(2, 1))
    assert environment.point[0] == 2


def test_a_channel_holds_for_what_is_being_sent_too():
    """Two pictures under way on one channel each: who moves to the other's does so with the next task."""
    environment = cell(devices=2, channels=2, slot=0.01)
    environment.reset()
    environment.doing[:], environment.point[:], environment.bits_left[:] = 2, 0, PROFILES["resnet18"].bits[0]
    environment.channel[:] = [0, 1]
    before = environment.bits_left.copy()
    environment.step((np.zeros(2), np.array([1, 1]), np.full(2, 0.5)))
    assert environment.channel.tolist() == [0, 1]
    alone = 1e6 * math.log2(1 + 0.5 * 50.0**-3 / 1e-9)
    np.testing.assert_allclose(before - environment.bits_left, 0.01 * alone, rtol=1e-9)
    environment.bits_left[:] = 1.0  # what is left is soon sent
    environment.step((np.zeros(2), np.array([1, 1]), np.full(2, 0.5)))
    assert environment.channel.tolist() == [1, 1]


def test_each_device_has_a_task_at_least_however_few_are_drawn():
    environment = OffloadingEnvironment("resnet18", OffloadingSettings(devices=60, tasks=1))
    state, _ = environment.reset(seed=0)
    assert environment.total.min() == 1 < environment.total.max() and np.isfinite(state).all()
    assert state[::4].tolist() == [1.0] * 60


def test_devices_stand_where_the_settings_say():
    near, far = 20.0, 30.0
    environment = OffloadingEnvironment("vgg11", OffloadingSettings(devices=200, distances=(near, far)))
    state, _ = environment.reset(seed=0)
    assert near <= environment.distance.min() < 21 and 29 < environment.distance.max() <= far
    np.testing.assert_allclose(state[3::4], (environment.distance - near) / (far - near))
    # First decisions are any of those there are.
    assert {*environment.point.tolist()} == {*range(6)} and {*environment.channel.tolist()} == {0, 1}
    assert 0 < environment.power.min() < 0.1 and 0.9 < environment.power.max() <= 1


@pytest.mark.parametrize("most, tasks, cut_after", [(3, 40, 3), (20, 40, 20), (None, 40, 12)])
def test_slots_are_counted_from_the_beginning_of_an_episode(most, tasks, cut_after):
    """Of as many as the settings name, also where they are more than the tasks need by themselves."""
    environment = cell("vgg11", devices=1, tasks=tasks, max_slots=most)
    for episode in range(2):
        environment.reset()
        environment.left[:] = environment.total[:] = 400  # nobody is done in between
        cuts = [environment.step(all_take(5, 1))[3] for _ in range(cut_after)]
        assert cuts == [False] * (cut_after - 1) + [True], episode
        environment.reset()
        environment.step(all_take(5, 1))  # one that is left in its midst


def test_episodes_are_drawn_by_their_seed_and_end():
    environment = OffloadingEnvironment("vgg11", OffloadingSettings(devices=3, tasks=4, max_slots=3))
    first, again, other = (environment.reset(seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # A vgg11 takes 0.19 s a task: four of them are not done in three slots of half a second at point 5 ...
    environment.reset(seed=1)
    environment.total[:] = environment.left[:] = 9
    flags = [environment.step(all_take(5, 3))[2:4] for _ in range(3)]
    assert [cut for _, cut in flags] == [False, False, True] and not any(done for done, _ in flags)
    small = cell(devices=1, tasks=2, slot=1.0)
    small.reset()
    _, _, done, cut, info = small.step(all_take(5, 1))
    assert done and not cut and info["finished"] == 2 and info["joules"] == pytest.approx(2 * 0.045887 * 2.1454)
    assert OffloadingEnvironment(settings=OffloadingSettings(tasks=200, slot=0.5)).observation_size == 20


@pytest.mark.parametrize("network, unit", [("vgg11", 0.092876), ("resnet18", 0.045887)])
def test_what_is_left_to_compute_is_seen_in_the_released_unit_or_the_whole_networks_time(network, unit):
    environment = OffloadingEnvironment(network, OffloadingSettings(devices=1, tasks=9, slot=0.01))
    environment.reset(seed=0)
    state, *_ = environment.step(all_take(5, 1))
    (left,) = environment.seconds_left
    assert 0 < left == pytest.approx(state[1] * unit)


def test_what_is_no_cell_and_no_action_is_named():
    for fields, message in (
        ({"devices": 0}, "devices: got 0"),
        ({"bandwidth": -1.0}, "bandwidth"),
        ({"distances": (5.0, 1.0)}, "distances"),
        ({"energy_weight": -1.0}, "energy_weight"),
        ({"energy_weight": float("nan")}, "energy_weight: got nan"),
        ({"bandwidth": float("inf")}, "bandwidth: got inf"),
        ({"path_loss_exponent": float("inf")}, "path_loss_exponent: got inf"),
        ({"tasks": 2.5}, "tasks: got 2.5, accepted are whole numbers"),
        ({"max_slots": 0}, "max_slots: got 0"),
        ({"channels": 0}, "channels: got 0"),
        ({"slot": 0.0}, "slot: got 0.0"),
        ({"max_power": 0.0}, "max_power: got 0.0"),
        ({"noise": 0.0}, "noise: got 0.0"),
        ({"distances": (0.0, 5.0)}, "distances: got"),
        ({"distances": (5.0, 5.0)}, "distances: got"),
        ({"distances": (1.0, 2.0, 3.0)}, "distances: got"),
        ({"path_loss_exponent": -1.0}, "path_loss_exponent: got -1.0"),
        ({"devices": 10001}, "devices: got 10001"),
    ):
        with pytest.raises(ValueError, match=message):
            OffloadingSettings(**fields)
    with pytest.raises(ValueError, match="accepted are vgg11, resnet18, mobilenetv2"):
        OffloadingEnvironment("vgg16")
    with pytest.raises(ValueError, match="as many of each"):
        SplitProfile((1.0, 0.0), (0.0, 1.0), (0.0,), (0.0, 1.0))
    flat = (0.0, 1.0)
    for fields, message in (
        (((0.0,), (0.0,), (0.0,), (0.0,)), "as many of each"),
        (
            ((1.0, 2.0), flat, flat, flat),
            "bits, seconds: the first point computes nothing on the device, the last one",
        ),
        (((1.0, 0.0), (0.5, 1.0), flat, flat), "bits, seconds: the first point computes nothing on the device"),
        (((1.0, 0.0), 1.0, flat, flat), "seconds: got 1.0, accepted is a number for each point"),
        (((1.0, 0.0), flat, (0.0, -1.0), flat), "watts: got -1.0, accepted are numbers from 0"),
        (((1.0, 0.0), flat, flat, flat, 0.0), "time_scale: got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            SplitProfile(*fields)
    with pytest.raises(ValueError, match="profile: got 3, accepted are those of the class SplitProfile"):
        OffloadingEnvironment(3)
    with pytest.raises(ValueError, match="settings: got {}, accepted are those of the class OffloadingSettings"):
        OffloadingEnvironment(settings={})
    environment = cell(devices=2)
    environment.reset()
    for action, message in (
        ((np.array([6, 0]), np.zeros(2), np.zeros(2)), "points: got"),
        ((np.zeros(2), np.array([0, 2]), np.zeros(2)), "channels: got"),
        ((np.zeros(2), np.array([0, 0.5]), np.zeros(2)), "channels: got"),
        ((np.zeros(2), np.zeros(2), np.array([0, 1.5])), "powers: got"),
        ((np.zeros(3), np.zeros(2), np.zeros(2)), "points: got"),
        ((np.array([-1, 0]), np.zeros(2), np.zeros(2)), "points: got .* 2 numbers from 0 to 5"),
        ((np.zeros(2), np.zeros(2), np.array([0, -0.1])), "powers: got .* 2 numbers from 0.0 to 1.0"),
        ((["a", "b"], np.zeros(2), np.zeros(2)), "points: got .*, accepted are numbers"),
        ((np.zeros(2), np.zeros(2)), "action: got .*, accepted are points, channels and powers"),
        (np.zeros(3), "action: got .*, accepted are points, channels and powers"),
        (
            np.zeros((90, 90)),
            r"action: got array\(\[\[0\., 0\., .{,70}\.\.\., accepted are points, channels and powers",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            environment.step(action)
    for distances in ([1.0, -2.0], [1.0, 0.0], [1.0], [1.0, float("inf")], ["near", "far"]):
        with pytest.raises(ValueError, match="distances: got"):
            environment.reset(distances=distances)
    with pytest.raises(ValueError, match="seed: got -1"):
        environment.reset(seed=-1)


def test_a_cell_and_how_is_learnt_in_it_are_by_default_as_published():
    """Five devices that share two channels of a megahertz, with 200 tasks each, between 1 and 100 metres away."""
    assert asdict(OffloadingSettings()) == {
        "devices": 5, "channels": 2, "tasks": 200, "slot": 0.5, "energy_weight": 1.0, "max_power": 1.0,
        "distances": (1.0, 100.0), "bandwidth": 1e6, "noise": 1e-9, "path_loss_exponent": 3.0, "fixed": False,
        "max_slots": None,
    }  # fmt: skip
    assert asdict(OffloadingTraining()) == {
        "steps": 500_000, "buffer": 1024, "batch": 256, "reuse": 20, "learning_rate": 1e-4, "gamma": 0.95, "lam": 0.95,
        "clip": 0.2, "entropy_weight": 1e-3, "released": False, "seed": 0,
    }  # fmt: skip
    assert {net: profile.last for net, profile in PROFILES.items()} == dict.fromkeys(PROFILES, 5)
    assert all(profile.bits[0] == 224 * 224 * 3 * 8 for profile in PROFILES.values())
    for profile in PROFILES.values():  # as published, rounded
        for seconds, watts, joules in zip(profile.seconds, profile.watts, profile.joules, strict=True):
            assert seconds * watts == pytest.approx(joules, abs=1e-4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"steps": 1}, "steps: got 1"),
        ({"buffer": 1}, "buffer: got 1"),
        ({"batch": 0}, "batch: got 0"),
        ({"reuse": 0}, "reuse: got 0"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"clip": 0.0}, "clip: got 0.0"),
        ({"entropy_weight": -1e-3}, "entropy_weight: got -0.001"),
        ({"gamma": 1.5}, "gamma: got 1.5"),
        ({"lam": -0.5}, "lam: got -0.5"),
        ({"seed": 2**32}, "seed: got 4294967296"),
    ],
)
def test_what_is_no_way_to_learn_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        OffloadingTraining(**fields)


def test_an_episode_is_cut_off_after_as_many_slots_as_its_tasks_need():
    """By itself after 0.15 seconds a task: forty of them in slots of half a second, after twelve."""
    environment = cell("vgg11", devices=1, tasks=40)  # 0.19 seconds a task
    environment.reset()
    flags = [environment.step(all_take(5, 1))[2:4] for _ in range(12)]
    assert [cut for _, cut in flags] == [False] * 11 + [True] and not any(done for done, _ in flags)


def test_an_actor_decides_within_its_bounds():
    torch.manual_seed(0)
    actor, critic = OffloadingActor(8, points=4, channels=3, max_power=0.2), OffloadingCritic(8)
    point, channel, power = actor(torch.rand(50, 8))
    assert point.sample().max() < 4 and channel.sample().max() < 3 and critic(torch.rand(50, 8)).shape == (50,)
    assert ((power.mean > 0) & (power.mean < 0.2)).all() and (power.stddev > 0).all()
    assert power.log_prob(power.sample()).shape == (50,)


def test_advantages_are_sums_of_errors_that_fade():
    rewards, values = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.5, 1.5, 2.5, 0.0])
    done = torch.tensor([0, 1, 0, 0])
    targets, found = advantages(rewards, values, done, gamma=0.5, lam=0.25)
    errors = [1 + 0.5 * 1.5 - 0.5, 2 - 1.5, 3 + 0.5 * 0 - 2.5, 4 - 0.0]
    assert targets.tolist() == [1 + 0.75, 2, 3, 4]
    raw = torch.tensor([errors[0] + 0.125 * errors[1], errors[1], errors[2] + 0.125 * errors[3], errors[3]])
    torch.testing.assert_close(found, (raw - raw.mean()) / (raw.std() + 1e-5))
    raw = torch.tensor([errors[0] + 0.25 * errors[1], errors[1], errors[2] + 0.25 * errors[3], errors[3]])
    _, released = advantages(rewards, values, done, gamma=0.5, lam=0.25, released=True)
    torch.testing.assert_close(released, (raw - raw.mean()) / (raw.std() + 1e-5))


def test_the_loss_is_clipped_where_it_would_pay_too_well():
    new, old = torch.log(torch.tensor([1.5, 0.5, 1.1])), torch.zeros(3)
    advantage, entropy = torch.tensor([2.0, -1.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    found = clipped_loss(new, old, advantage, entropy, clip=0.3, entropy_weight=0.1)
    assert found.item() == pytest.approx((-2 * 1.3 + 1 * 0.7 - 3 * 1.1) / 3 - 0.2)
    with pytest.raises(ValueError, match="expected the same"):
        clipped_loss(new[:, None], old, advantage, entropy)


def test_a_code_is_small_and_half_a_level_low():
    torch.manual_seed(0)
    codec, features = PointwiseCodec(12, 5, bits=4).eval(), torch.randn(2, 12, 3, 3)
    assert codec.encode(features).shape == (2, 2, 3, 3) and codec.bits_sent(features) == 2 * 9 * 4
    code = codec.encode(features).detach()
    quantized = quantize_code(code, 4)
    step = (code.max() - code.min()) / 15
    assert quantized.levels.min() == 0 and quantized.levels.max() <= 15 and (quantized.levels % 1 == 0).all()
    assert (code - quantized.restore()).min() > -1e-6 and (code - quantized.restore()).max() < step + 1e-6
    torch.testing.assert_close(codec(features), codec.decoder(quantized.restore()))
    codec.train()
    assert torch.equal(codec(features), codec.decoder(codec.encode(features)))
    apart = torch.tensor([0.5, 3.0])
    assert reconstruction_loss(apart, torch.zeros(2)).item() == pytest.approx((0.125 + 2.5) / 2)
    for wrong, message in (((code, 0), "bits: got 0"), ((code * 0, 8), "its numbers go from")):
        with pytest.raises(ValueError, match=message):
            quantize_code(*wrong)
    with pytest.raises(ValueError, match="channels, shrink"):
        PointwiseCodec(0, 2)


@pytest.mark.parametrize("channels, shrink, kept", [(3, 5, 1), (4, 4, 1), (7, 2, 3), (6, 1, 6)])
@pytest.mark.parametrize("bits", [None, 2])
def test_a_code_has_a_channel_at_least_and_few_bits_outside_of_training_alone(channels, shrink, kept, bits):
    codec, features = PointwiseCodec(channels, shrink, bits=bits), torch.randn(2, channels, 3, 5)
    code = codec.encode(features)
    assert code.shape == (2, kept, 3, 5) and codec.bits_sent(features) == kept * 15 * (bits or 32)
    torch.testing.assert_close(codec.train()(features), codec.decoder(code))
    sent = codec.eval()(features)
    assert sent.shape == features.shape and torch.allclose(sent, codec.decoder(code)) == (bits is None)
