"""Generators, statistics of batch norms, and the losses at values that no published case has."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_effmodels.training.data_free import (
    DataFreeGenerator,
    DataReadError,
    batch_norm_gap,
    batch_norms_of,
    closed_to_data,
    fit_aggregation,
    generator_from_official,
    load_generator,
    refuse_reading,
    save_generator,
    statistics_gap,
    watched_gaps,
    watched_statistics,
    whole_gap,
)
from hf_effmodels.training.losses.data_free import disagreement, head_losses, soft_head_losses


def parameters(*arguments, **options) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in DataFreeGenerator(*arguments, **options).parameters()) / 1e6


def test_generators_have_the_published_sizes_and_make_such_images():
    assert parameters("small", 32) == pytest.approx(2.3, abs=0.06)
    assert parameters("large", 128) == pytest.approx(11.2, abs=0.06)
    assert parameters("large_normalized", 224) == pytest.approx(28.6, abs=0.06)
    noise = torch.randn(6, 9)
    bounded = DataFreeGenerator("large", 32, latent_size=9, num_channels=1)(noise)
    assert bounded.shape == (6, 1, 32, 32) and bounded.abs().max() <= 1
    normalised = DataFreeGenerator("large_normalized", 16, latent_size=9)(noise)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tiny"}, "generator: got 'tiny', accepted are small, large"),
        ({"image_size": 30}, "image_size: got 30, accepted with generator small are multiples of 4"),
        ({"kind": "large", "image_size": 8}, "multiples of 16"),
        ({"image_size": 0}, "image_size: got 0, accepted with generator small are multiples of 4"),
        ({"latent_size": 0}, "latent_size: got 0, accepted are whole numbers from 1"),
        ({"num_channels": 0}, "num_channels: got 0, accepted are whole numbers from 1"),
    ],
)
def test_generators_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataFreeGenerator(**options)


def test_what_is_no_official_generator_is_refused():
    with pytest.raises(ValueError, match="layout of a generator"):
        generator_from_official({"fc.weight": torch.zeros(2, 2)})
    weights = {"l1.0.weight": torch.zeros(128 * 4, 5), "conv_blocks0.0.weight": torch.zeros(128)}
    with pytest.raises(ValueError, match="^state_dict: .*Missing key.*growths"):
        generator_from_official(weights | {"output.weight": torch.zeros(3, 64, 3, 3)})


def test_a_generator_comes_back_from_its_folder_as_it_was(tmp_path):
    """Its arguments, all of them away from what they are by default, and its weights."""
    torch.manual_seed(0)
    generator = DataFreeGenerator("large", 16, latent_size=5, num_channels=1)
    save_generator(generator, tmp_path / "deep" / "generator")
    loaded, noise = load_generator(tmp_path / "deep" / "generator"), torch.randn(3, 5)
    assert torch.equal(loaded(noise), generator(noise))
    assert (loaded.kind, loaded.image_size, loaded.latent_size, loaded.num_channels) == ("large", 16, 5, 1)
    with pytest.raises(OSError):
        load_generator(tmp_path / "nowhere")
    plain = DataFreeGenerator()
    assert (plain.kind, plain.image_size, plain.latent_size, plain.num_channels) == ("small", 32, 256, 3)
    assert plain(torch.randn(2, 256)).shape == (2, 3, 32, 32)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A file that is closed to a training without data, and the folder of a compiler's results."""
    file = tmp_path / "data.bin"
    file.write_bytes(b"pictures")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        *("home/dev/images.png", "home/proc/images.png", "home/sys/images.png"),
        *("code.py", "library.so.1", "some.dist-info/METADATA", "some.dist-info/deep/data", "cache/kernel"),
        *("cache-of-data/kernel", "home/.triton/kernel", "home/.cache/torch/kernels/1", "torchinductor_me/graph"),
        *("readme.python", "home/.cache/data"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("mode", ["r", "rb", "r+", "w+", "a+b"])
def test_nothing_is_opened_for_reading_where_no_data_is_read(places, mode):
    file = places / "data.bin"
    with closed_to_data(), pytest.raises(DataReadError, match=f"was going to open {file}; nothing is read"):
        open(file, mode)
    assert file.read_bytes() == b"pictures"


@pytest.mark.parametrize(("flags", "reads"), [(os.O_RDONLY, True), (os.O_RDWR, True), (os.O_WRONLY, False)])
def test_whoever_opens_by_the_systems_own_call_is_seen_too(places, flags, reads):
    with closed_to_data():
        if reads:
            with pytest.raises(DataReadError, match="data.bin"):
                os.open(places / "data.bin", flags)
        else:
            os.close(os.open(os.fsencode(places / "data.bin"), flags))


@pytest.mark.parametrize(
    ("name", "open_to_all"),
    [
        *(("code.py", True), ("library.so.1", True), ("some.dist-info/METADATA", True), ("cache/kernel", True)),
        *(("home/.triton/kernel", True), ("home/.cache/torch/kernels/1", True), ("torchinductor_me/graph", True)),
        *(("some.dist-info/deep/data", False), ("cache-of-data/kernel", False), ("readme.python", False)),
        ("home/.cache/data", False),
        *((f"home/{like_the_system}/images.png", False) for like_the_system in ("dev", "proc", "sys")),
    ],
)
def test_code_and_what_compilers_keep_may_be_read(places, name, open_to_all):
    with closed_to_data():
        if open_to_all:
            (places / name).open("rb").close()
        else:
            with pytest.raises(DataReadError, match=name):
                (places / name).open("rb")


def test_what_is_written_open_already_or_of_the_system_is_no_data(places):
    with open(places / "data.bin", "rb") as opened, closed_to_data():
        with open(os.dup(opened.fileno()), "rb") as again:
            assert again.read() == b"pictures"
        (places / "log.txt").write_text("written")
        with open(os.devnull) as nothing:
            assert not nothing.read()
        with closed_to_data(), pytest.raises(DataReadError, match="was going to read the digits; nothing of it"):
            refuse_reading("the digits")
        with pytest.raises(DataReadError):  # the inner one has ended, the outer one has not
            refuse_reading("the digits")
    refuse_reading("the digits")
    assert Path(places / "log.txt").read_text() == "written"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gaps_are_those_of_each_batch_norm_and_the_first_counts_as_often_as_it_is_told(layout):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        teacher[3].running_mean.normal_()
        teacher[3].running_var.uniform_(0.5, 2)
    images = (2 * torch.randn(5, 3, 6, 6) + 1).contiguous(memory_format=layout).requires_grad_()
    with watched_gaps(teacher) as gaps:
        teacher(images)
    expected = []
    for norm, values in ((teacher[0], images), (teacher[3], teacher[:3](images))):
        flat = values.transpose(0, 1).flatten(1)
        variance = flat.square().mean(1) - flat.mean(1).square()
        expected.append(
            ((norm.running_var - variance) ** 2).sum() ** 0.5 + ((norm.running_mean - flat.mean(1)) ** 2).sum() ** 0.5
        )
    torch.testing.assert_close(torch.stack(gaps), torch.stack(expected))
    whole, by_hand = statistics_gap(gaps, 3.0), 3 * expected[0] + expected[1]
    torch.testing.assert_close(whole, by_hand)
    torch.testing.assert_close(*(torch.autograd.grad(2 * gap, images)[0] for gap in (whole, by_hand)))
    teacher(images)
    assert len(gaps) == 2, "it goes on watching"


def test_pieces_of_a_batch_have_the_gap_and_the_gradient_of_the_whole():
    """Two pieces of 2 and 4 pictures; where several processes have some, the sums go through `reduce`."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double().eval()
    with torch.no_grad():
        teacher[2].running_var.uniform_(0.5, 2)
    images = (2 * torch.randn(6, 3, 5, 5).double() + 1).requires_grad_()
    with watched_gaps(teacher) as gaps:
        teacher(images)
    expected = statistics_gap(gaps)
    assert expected.item() == pytest.approx((5 * gaps[0] + gaps[1]).item())
    (by_hand,) = torch.autograd.grad(expected, images)
    pieces = []
    for chosen in (slice(0, 2), slice(2, 6)):
        with watched_statistics(teacher) as seen:
            teacher(images[chosen])
        pieces.append((seen, len(range(6)[chosen]) / 6))
    whole = whole_gap(pieces)
    torch.testing.assert_close(whole.value, expected.detach())
    found = torch.autograd.grad(sum(whole.of_piece(seen, share) for seen, share in pieces), images)[0]
    torch.testing.assert_close(found, by_hand)
    doubled = [(seen, share / 2) for seen, share in pieces]
    assert whole_gap(doubled, 3.0, lambda values: 2 * values).value.item() == pytest.approx(
        statistics_gap(gaps, 3.0).item()
    )


def test_gaps_of_vectors_and_of_half_precision_are_measured_alike():
    values, mean, variance = torch.randn(8, 3), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5])
    expected = (values.var(0, correction=0) - variance).norm() + (values.mean(0) - mean).norm()
    torch.testing.assert_close(batch_norm_gap(values, mean, variance), expected)
    low = batch_norm_gap(values.bfloat16(), mean, variance)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, batch_norm_gap(values.bfloat16().float(), mean, variance))


def test_only_the_weights_of_the_heads_learn_from_a_few_pictures():
    """One step of Adam moves each weight by the learning rate against its gradient."""
    torch.manual_seed(0)

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier, self.aggregation = nn.Linear(3, 4), nn.Sequential(nn.Flatten(), nn.Linear(6, 2))

    model, features, labels = Heads(), torch.randn(5, 2, 3), torch.tensor([0, 1, 2, 3, 0])
    model.aggregation.requires_grad_(False)
    kept = {name: value.clone() for name, value in model.state_dict().items()}

    def entropy():
        logits = torch.einsum("nh,nhc->nc", model.aggregation(features), model.classifier(features))
        return nn.functional.cross_entropy(logits, labels)

    model.aggregation.requires_grad_()
    gradient = torch.autograd.grad(entropy(), model.aggregation[1].weight)[0]
    first = entropy().item()
    before, after = fit_aggregation(model, features, labels, steps=1, learning_rate=0.125)
    assert before == pytest.approx(first) and after == pytest.approx(entropy().item()) != before
    moved = model.aggregation[1].weight - kept["aggregation.1.weight"]
    torch.testing.assert_close(moved, -0.125 * gradient.sign(), rtol=1e-3, atol=1e-4)
    assert torch.equal(model.classifier.weight, kept["classifier.weight"]) and model.classifier.weight.grad is None
    before, longer = fit_aggregation(model, features, labels)
    assert before == pytest.approx(after) and longer < after


def test_a_teacher_without_batch_norms_is_refused():
    with pytest.raises(ValueError, match="Linear has no batch norm"), watched_gaps(nn.Linear(2, 2)):
        pass


def test_losses_of_two_heads_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]])
    teacher = torch.tensor([[[0.0, 4.0], [1.0, -1.0]]])
    features = torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]]]), torch.zeros(1, 2, 3)
    losses = head_losses(student, teacher, *features)
    assert losses["heads"] == pytest.approx((1 + 2 + 1 + 0) / 4)
    assert losses["ensemble"] == pytest.approx((abs(0.5 - 0.5) + abs(0.5 - 1.5)) / 2)
    assert losses["features"] == pytest.approx((3 + 2) / 2)
    assert disagreement(student[:, 0], teacher[:, 0], 4) == pytest.approx(-1.5 / 4)
    soft = soft_head_losses(student, teacher)
    expected = teacher.softmax(-1), student.softmax(-1)
    by_hand = (expected[0] * (expected[0] / expected[1]).log()).sum(-1)
    assert soft["heads"] == pytest.approx(by_hand.mean().item(), rel=1e-5)
    means = teacher.mean(1).softmax(-1), student.mean(1).softmax(-1)
    assert soft["ensemble"] == pytest.approx((means[0] * (means[0] / means[1]).log()).sum().item(), rel=1e-5)
    with pytest.raises(ValueError, match="student_features: got shape"):
        head_losses(student, teacher, features[0], torch.zeros(1, 2, 4))


def test_each_step_of_the_aggregation_goes_by_the_gradient_of_that_step():
    """Adam by hand (betas 0.9 and 0.999, ε 1e-8), three steps."""
    torch.manual_seed(1)
    model = nn.Module()
    model.classifier, model.aggregation = nn.Linear(3, 4), nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False))
    features, labels = torch.randn(5, 2, 3), torch.tensor([0, 1, 2, 3, 0])
    weight = model.aggregation[1].weight.detach().clone()
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in (1, 2, 3):
        weight = weight.detach().requires_grad_()
        logits = torch.einsum("nh,nhc->nc", features.flatten(1) @ weight.T, model.classifier(features).detach())
        gradient = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), weight)[0]
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        change = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        weight = weight - 0.5 * change
    fit_aggregation(model, features, labels, steps=3, learning_rate=0.5)
    torch.testing.assert_close(model.aggregation[1].weight, weight, rtol=1e-4, atol=1e-5)
    assert model.aggregation[1].weight.grad is None


def test_a_batch_norm_that_remembers_nothing_tells_of_no_images():
    network = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))
    with watched_gaps(network) as gaps:
        network(torch.randn(5, 3))
    assert batch_norms_of(network) == [network[1]] and len(gaps) == 1
