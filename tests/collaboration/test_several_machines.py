"""Parts of a network on machines of their own, and agents that decide which machine computes what."""

import copy

import numpy as np
import pytest
import torch

from hf_effmodels.collaboration.codecs.wire import UniformCodec
from hf_effmodels.collaboration.decomposition import take_part
from hf_effmodels.collaboration.offloading import OffloadingEnvironment, OffloadingSettings, SplitProfile
from hf_effmodels.collaboration.offloading.driving import drive, local_point, split_point
from hf_effmodels.collaboration.offloading.training import OffloadingAgents, measure
from hf_effmodels.collaboration.splitting import FusedClassifier, SplitClassifier, split
from hf_effmodels.collaboration.splitting.client import SplitOutput
from hf_effmodels.collaboration.splitting.measure import measure_split
from hf_effmodels.collaboration.splitting.whole import part, whole
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.modeling.devit.modeling_devit import DeViTForImageClassification

from .test_service import served
from .test_splitting import MODELS, resnet

COSTS = SplitProfile(bits=(8e5, 1e5, 0.0), seconds=(0.0, 0.01, 0.05), watts=(0.0, 2.0, 2.5), joules=(0.0, 0.02, 0.125))


@pytest.fixture(scope="module")
def devit() -> DeViTForImageClassification:
    """Two parts of other sizes, and a fusion of two layers."""
    torch.manual_seed(6)
    parts = [part_sizes(8, 1, 2), part_sizes(12, 2, 3)]
    config = DeViTConfig(
        part_type="deit", parts=parts, fusion_hidden_size=10, image_size=16, patch_size=8, num_labels=5
    )
    return DeViTForImageClassification(config).eval()


@pytest.mark.parametrize("codec", [None, UniformCodec(8)], ids=["as they are", "8 bits"])
@torch.no_grad()
def test_parts_on_machines_of_their_own_are_fused_to_the_answer_of_the_whole(devit, codec, tmp_path):
    pixels = torch.randn(3, 3, 16, 16)
    for number in range(2):
        take_part(devit, number).save_pretrained(tmp_path / str(number))
    tails = [part(DeViTForImageClassification.from_pretrained(tmp_path / str(n)), codec=codec)[1] for n in range(2)]
    with served(tails[0]) as first, served(tails[1]) as second:
        client = FusedClassifier(devit, [first, second], codec=codec, patience=0.2)
        answer = client.logits(pixels)
        seen = pixels if codec is None else codec.decode(codec.encode(pixels), (3, 3, 16, 16), torch.float32)
        torch.testing.assert_close(answer.logits, devit(seen).logits)
        assert answer.missing == () and answer.bytes_received > 3 * 2 * 20 * 4
        images = 2 * pixels.numel()
        assert images * (4 if codec is None else 1) < answer.bytes_sent < 2 * 4 * pixels.numel() + 1000
        with pytest.raises(ValueError, match="another cut"):  # the parts of one network, in the wrong order
            FusedClassifier(devit, [second, first], codec=codec).logits(pixels)
        with pytest.raises(ValueError, match="width: got 3, but images are sent"):
            client.clients[0].logits(pixels, width=3)
    with served(tails[1]) as second:
        urls = ["http://127.0.0.1:9", second]
        lacking = FusedClassifier(devit, urls, codec=codec, missing="zeros", patience=0.1).logits(pixels)
        tokens = [None, devit.encode(1, seen)]
        torch.testing.assert_close(lacking.logits, devit.fuse(tokens))
        assert lacking.missing == (0,) and lacking.milliseconds[0] is None
        with pytest.raises(ConnectionError, match="part 0: url: http://127.0.0.1:9 gives no answer"):
            FusedClassifier(devit, urls, codec=codec, patience=0.1).logits(pixels)


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_any_classifier_is_computed_from_images_that_are_sent(build):
    model, pixels = build(), torch.randn(2, 3, 32, 32)
    for codec in (None, UniformCodec(6)):
        device, server = whole(model, codec=codec)
        seen = pixels if codec is None else codec.decode(codec.encode(pixels), (2, 3, 32, 32), torch.float32)
        torch.testing.assert_close(server(device(pixels), (2, 3, 32, 32)), model(seen).logits)


@pytest.mark.thorough
@pytest.mark.parametrize("build", MODELS)
def test_costs_of_any_classifier_are_measured(build):
    costs = measure_split(build(), bits=4, repeats=1)
    bits = [cost.bits for cost in costs]
    assert len(costs) > 2 and costs[0].at == "image" and bits[0] == 8 * 3 * 32 * 32 and bits[-1] == 0
    assert bits[1:] == sorted(bits[1:], reverse=True) and all(cost.latency(1e6) > 0 for cost in costs)


def test_parts_that_are_none_are_named(devit):
    for make, message in (
        (lambda: FusedClassifier(devit, ["http://x"]), "urls: got 1 for 2 parts"),
        (lambda: FusedClassifier(devit, ["http://x"] * 2, missing="ignored"), "missing: got 'ignored'"),
        (lambda: part(devit), "accepted are DeViTs of one part"),
        (lambda: part(resnet()), "model: got ResNetForImageClassification"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_device_computes_an_image_in_the_precision_of_its_network(devit):
    pixels, network = torch.randn(1, 3, 16, 16), copy.deepcopy(devit).bfloat16()
    logits, sent = local_point(network)(pixels)
    assert sent == 0 and torch.equal(logits, network(pixels.bfloat16()).logits)


@torch.no_grad()
def test_agents_drive_the_splitter():
    """Two devices: each image is computed where the agents say, and answered as by the whole network."""
    model = resnet()
    (edge, all_of_it), (head, tail) = whole(model), split(model, "stages.0")
    images = [[torch.randn(3, 32, 32) for _ in range(12)] for _ in range(2)]
    expected = [model(torch.stack(own)).logits for own in images]
    environment = OffloadingEnvironment(COSTS, OffloadingSettings(devices=2, channels=2, slot=0.1, tasks=12))
    agents = OffloadingAgents(environment.settings, points=3, seed=3)
    with served(all_of_it) as far, served(tail) as near:
        points = [
            split_point(SplitClassifier(edge, far)),
            split_point(SplitClassifier(head, near)),
            local_point(model),
        ]
        driven = drive(agents.decide, environment, points, images)
        for found, wanted in zip(driven.logits, expected, strict=True):
            torch.testing.assert_close(found, wanted)
        # The first task is on the device; the others are where the agents' decision of the last slot was.
        assert all(taken[0] == 2 and len(taken) == 12 for taken in driven.points)
        simulated = measure(environment, agents.decide)
        assert (driven.seconds, driven.joules) == pytest.approx((simulated["seconds"], simulated["joules"]))
        other = lambda observation: (np.array([0, 1]), np.array([0, 1]), np.array([1.0, 1.0]))  # noqa: E731
        steered = drive(other, environment, points, images)
        assert [set(taken[2:]) for taken in steered.points] == [{0}, {1}]
        assert steered.bytes_sent > 8 * 3 * 32 * 32 * 4
        torch.testing.assert_close(steered.logits[1], expected[1])
    computing = drive(lambda o: (np.full(2, 2), np.zeros(2), np.ones(2)), environment, points, images)
    assert computing.bytes_sent == 0 and computing.seconds < steered.seconds
    for arguments, message in (
        ((points[:2], images), "points: got 2 for a profile of 3"),
        ((points, images[:1]), "images: got .12., accepted are as many for each of 2 devices"),
        ((points, [images[0], images[1][:3]]), "images: got .12, 3."),
    ):
        with pytest.raises(ValueError, match=message):
            drive(other, environment, *arguments)
    with pytest.raises(ValueError, match="most_slots: after 1 slots"):
        drive(lambda o: (np.full(2, 2), np.zeros(2), np.ones(2)), environment, points, images, most_slots=1)


def test_each_image_is_computed_at_the_point_of_its_turn_and_what_was_sent_is_counted():
    """Networks that answer with their point and the image's number, and say that they sent ten and a hundred bytes."""

    def point(number, size):
        def compute(pixel_values):
            assert pixel_values.shape == (1, 3, 2, 2)
            return torch.tensor([[float(number), float(pixel_values.mean())]]), size

        return compute

    points = [point(0, 100), point(1, 10), point(2, 0)]
    images = [[torch.full((3, 2, 2), 10.0 * device + n) for n in range(5)] for device in range(3)]
    settings = OffloadingSettings(devices=3, channels=2, slot=0.02, tasks=99)
    environment = OffloadingEnvironment(COSTS, settings)
    driven = drive(lambda _: (np.array([0, 1, 2]), np.array([0, 1, 0]), np.ones(3)), environment, points, images)
    assert environment.settings == settings
    for device, (logits, taken) in enumerate(zip(driven.logits, driven.points, strict=True)):
        assert logits.tolist() == [[float(at), 10.0 * device + n] for n, at in enumerate(taken)] and len(taken) == 5
        assert taken[0] == 2 and set(taken[1:]) <= {device, 2} and taken[-1] == device
    assert driven.bytes_sent == sum((100, 10, 0)[at] for taken in driven.points for at in taken)
    # A cell that ends in its very last slot has finished.
    slots = 0

    def counted(observation):
        nonlocal slots
        slots += 1
        return np.full(3, 2), np.zeros(3), np.ones(3)

    drive(counted, environment, points, images)
    assert drive(counted, environment, points, images, most_slots=slots // 1).bytes_sent == 0
    for wrong in ([[], [], []], [images[0]] * 2):
        with pytest.raises(ValueError, match="images: got"):
            drive(counted, environment, points, wrong)


class Answers:
    """A client of a part: it answers with these tokens, or not."""

    def __init__(self, tokens, sent=0, received=0):
        self.tokens, self.sent, self.received = tokens, sent, received

    def logits(self, pixel_values):
        if self.tokens is None:
            raise ConnectionError(f"nobody at {self.sent}")
        return SplitOutput(self.tokens.flatten(1), self.sent, self.received, {"head": float(self.sent)}, 1)


@torch.no_grad()
def test_answers_of_parts_are_fused_in_their_order_and_counted(devit):
    pixels = torch.randn(3, 3, 16, 16)
    tokens = [devit.encode(number, pixels) for number in range(2)]
    client = FusedClassifier(devit, ["http://a", "http://b"], missing="zeros")

    def asked(*answers, missing="zeros"):
        client.missing, client.clients = missing, answers
        return client.logits(pixels)

    both = asked(Answers(tokens[0], 5, 7), Answers(tokens[1], 50, 70), missing="error")
    torch.testing.assert_close(both.logits, devit(pixels).logits)
    assert (both.missing, both.bytes_sent, both.bytes_received) == ((), 55, 77)
    assert both.milliseconds == ({"head": 5.0}, {"head": 50.0})
    for lost in range(2):
        answers = [Answers(tokens[n], 5 + n, 7 + n) if n != lost else Answers(None, n) for n in range(2)]
        one = asked(*answers)
        torch.testing.assert_close(one.logits, devit.fuse([t if n != lost else None for n, t in enumerate(tokens)]))
        assert (one.missing, one.bytes_sent, one.bytes_received) == ((lost,), 6 - lost, 8 - lost)
        assert [times is None for times in one.milliseconds] == [n == lost for n in range(2)]
        with pytest.raises(ConnectionError, match=f"^part {lost}: nobody at {lost}$"):
            asked(*answers, missing="error")
    with pytest.raises(ConnectionError, match="^part 0: nobody at 3$"):
        asked(Answers(None, 3), Answers(None, 4))
