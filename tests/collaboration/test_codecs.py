"""Codes of features: what arrives is what was sent, in as few bytes as estimated."""

import math
from random import Random

import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.collaboration.codecs import rans
from hf_effmodels.collaboration.codecs.entropic import EntropicBottleneck, from_official, rate_distortion_loss
from hf_effmodels.collaboration.codecs.gdn import PEDESTAL, DivisiveNorm, lower_bound
from hf_effmodels.collaboration.codecs.prior import FactorizedPrior, bits, rate_loss


@pytest.mark.parametrize("form", [{}, {"compressai": True}], ids=["ours", "compressai"])
def test_numbers_come_back_whatever_the_table_holds(form):
    tables = [rans.quantized_distribution([0.5, 0.3, 0.0, 0.2]), rans.quantized_distribution([1.0, 1e-9])]
    numbers = [0, 1, -1, 2, 900, -(2**31), 2**31 - 1, 5, 5, 4, 0]
    which = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    for count in range(len(numbers) + 1):  # short ones are states alone, of each length
        some = numbers[:count], which[:count]
        stream = rans.encode(*some, tables, [-1, 5], **form)
        assert rans.decode(stream, some[1], tables, [-1, 5], **form) == some[0]
        assert not form or len(stream) % 4 == 0
    assert len(rans.encode([], [], tables, [-1, 5], **form)) == (8 if form else 0)
    with pytest.raises(ValueError, match="32 bits"):
        rans.encode([2**60], [0], tables, [0, 0])


def test_a_stream_has_two_bytes_more_than_its_numbers_say_and_compressais_six():
    table, random = [rans.quantized_distribution([0.5, 0.25, 0.125, 0.125])], Random(0)
    bits_of, more, theirs = (1, 2, 3), [], []
    for count in range(1, 160):
        numbers = random.choices(range(3), (4, 2, 1), k=count)
        which = [0] * count
        needed = sum(bits_of[n] for n in numbers) / 8
        stream = rans.encode(numbers, which, table, [0])
        assert rans.decode(stream, which, table, [0]) == numbers
        more.append(len(stream) - needed)
        theirs.append(len(rans.encode(numbers, which, table, [0], compressai=True)) - needed)
    assert sum(more) / len(more) < 2.2 and max(more) < 6
    assert 5 < sum(theirs) / len(theirs) < 7


def test_every_symbol_keeps_a_place_in_the_table():
    # What nothing is left for takes its place from the rarest that has more than one.
    assert rans.quantized_distribution([0.9, 0.1, 0.0]) == [0, 58982, 65535, 65536]
    assert rans.quantized_distribution([0.0, 0.1, 0.9]) == [0, 1, 6554, 65536]
    ends = rans.quantized_distribution([0.999, 0.0, 0.001, 0.0])
    counts = [b - a for a, b in zip(ends[:-1], ends[1:], strict=True)]
    assert ends[0] == 0 and ends[-1] == 2**16 and min(counts) == 1
    assert counts[0] == pytest.approx(0.999 * 2**16, abs=3)
    for wrong in ([], [0.0, 0.0], [float("nan")], [-1.0, 2.0]):
        with pytest.raises(ValueError, match="probabilities"):
            rans.quantized_distribution(wrong)


def test_broken_streams_are_refused_and_never_read_past_their_end():
    table = [rans.quantized_distribution([0.25, 0.5, 0.2, 0.05])]
    numbers = [0, 1, 2, 1, 1, 7, 0, 1] * 30
    stream = rans.encode(numbers, [0] * len(numbers), table, [0], compressai=True)
    for broken in (b"", stream[:5], stream[:-4], stream + bytes(4), b"\xff" * len(stream)):
        with pytest.raises(ValueError, match="stream"):
            rans.decode(broken, [0] * len(numbers), table, [0], compressai=True)
    # Ours is without what tells all of this (the codec sends a checksum), but ends where it should.
    stream = rans.encode(numbers, [0] * len(numbers), table, [0])
    for broken in (stream + bytes(4), b"\xff" * len(stream)):
        with pytest.raises(ValueError, match="stream: "):
            rans.decode(broken, [0] * len(numbers), table, [0])


@pytest.fixture(scope="module")
def learnt() -> tuple[FactorizedPrior, torch.Tensor]:
    """A prior that has learnt a normal distribution, and a code of it."""
    torch.manual_seed(0)
    spread = 3.0
    prior, generator = FactorizedPrior(3), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(150):
        code = spread * torch.randn(4, 3, 8, 8, generator=generator)
        loss = rate_loss(prior(code)[1], "batchmean") + prior.auxiliary_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prior.eval().update()
    return prior, spread * torch.randn(2, 3, 24, 24, generator=generator)


def test_bytes_are_as_many_as_estimated_and_as_the_entropy_says(learnt):
    prior, code = learnt
    rounded, likelihoods = prior(code)
    streams = prior.compress(code)
    assert torch.equal(prior.decompress(streams, (24, 24)), rounded)
    for stream, estimate in zip(streams, bits(likelihoods).tolist(), strict=True):
        assert abs(8 * len(stream) - estimate) < 0.002 * estimate + 16
    entropy = math.log2(3 * math.sqrt(2 * math.pi * math.e))  # of the normal distribution that it has learnt
    assert bits(likelihoods).mean().item() / code[0].numel() == pytest.approx(entropy, rel=0.03)
    grid = torch.arange(-60.0, 61.0).reshape(1, 1, -1).expand(1, 3, -1) + prior.medians(3)
    torch.testing.assert_close(prior.likelihoods(grid).sum(-1), torch.ones(1, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [224, 256])
def test_at_the_published_shapes_bytes_are_those_estimated(side):
    """24 channels of 55×55 for an image of 224 pixels."""
    prior, generator = FactorizedPrior(24).eval(), torch.Generator().manual_seed(2)
    spread = torch.linspace(0.1, 1.5, 24)[:, None, None]  # from channels that hardly say anything to busy ones
    with torch.no_grad():
        for bias in prior.biases:
            bias.zero_()
        # A logistic density of that spread, where the one that training begins with has a scale of ten.
        slope = F.softplus(prior.matrices[0]) * 10 / (0.55 * spread)
        prior.matrices[0].copy_(slope.expm1().log())
    prior.update()
    size = side // 4 - 1
    code = spread * torch.randn(1, 24, size, size, generator=generator)
    ((stream,), ((estimate,))) = prior.compress(code), (bits(prior(code)[1]) / 8).tolist()
    (theirs,) = prior.compress(code, compressai=True)
    assert 5000 < estimate < 20000 and len(stream) == pytest.approx(estimate, rel=0.005)
    assert 3 <= len(theirs) - len(stream) <= 8


def test_tables_travel_with_the_weights_and_odd_numbers_escape(learnt):
    prior, code = learnt[0], learnt[1].clone()
    other = FactorizedPrior(3)
    with pytest.raises(ValueError, match="update"):
        other.compress(code)
    other.load_state_dict(prior.state_dict())
    code[0, 0, 0, 0], code[1, 2, 3, 3] = 4000.0, -70000.0
    assert torch.equal(other.decompress(prior.compress(code), (24, 24)), prior.round(code))
    with pytest.raises(ValueError, match="not finite"):
        prior.compress(code * float("nan"))


def test_rates_are_sums_over_the_batch_images_or_places():
    likelihoods = torch.full((2, 3, 4, 5), 0.25)
    assert rate_loss(likelihoods).item() == 2 * 2 * 60
    assert rate_loss(likelihoods, "batchmean").item() == 120 and rate_loss(likelihoods, "mean").item() == 6
    with pytest.raises(ValueError, match="reduction: got 'max'"):
        rate_loss(likelihoods, "max")


def test_features_are_divided_by_their_neighbours_magnitudes():
    norm, x = DivisiveNorm(3).double(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(norm(x), x / (1 + 0.1 * x.abs()), atol=1e-7, rtol=1e-6)
    with torch.no_grad():
        norm.beta.copy_(torch.tensor([2.0, -1.0, 1.0]))
        norm.gamma.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, -3.0]]))
    expected = torch.stack([4 + x[:, 1].abs(), torch.full_like(x[:, 1], 1e-6), 1 + 4 * x[:, 0].abs()], dim=1)
    torch.testing.assert_close(norm(x), x / expected, atol=1e-6, rtol=1e-6)
    norm.inverse = True
    torch.testing.assert_close(norm(x), x * expected, atol=1e-6, rtol=1e-6)
    assert PEDESTAL == 2.0**-36
    values = torch.tensor([0.5, 0.5, 2.0, 2.0], requires_grad=True)
    (lower_bound(values, 1.0) * torch.tensor([1.0, -1.0, 1.0, -1.0])).sum().backward()
    assert values.grad.tolist() == [0.0, -1.0, 1.0, -1.0]


def test_more_weight_on_bits_sends_fewer():
    """The compromise that training is for; the same seed and steps, two weights."""
    sent = {}
    for beta in (0.001, 10.0):
        torch.manual_seed(0)
        model = EntropicBottleneck(4, 8)
        pixels = torch.randn(4, 3, 32, 32)
        target = 20 * torch.nn.functional.avg_pool2d(pixels, 4).mean(1, keepdim=True).expand(-1, 8, -1, -1)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        for _ in range(60):
            features, likelihoods = model(pixels)
            loss = rate_distortion_loss(features, target, likelihoods, beta)
            optimizer.zero_grad()
            (loss + model.entropy_bottleneck.auxiliary_loss()).backward()
            optimizer.step()
        model.eval().entropy_bottleneck.update()
        coded = model.encode(pixels)
        torch.testing.assert_close(model.decode(coded), model(pixels)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.rounded(pixels), model(pixels)[0])
        sent[beta] = coded.num_bytes
    assert sent[10.0] < 0.8 * sent[0.001]


def test_the_second_stage_leaves_the_encoder_alone():
    model = EntropicBottleneck(2, 4)
    model.rounded(torch.randn(1, 3, 16, 16)).sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())


def test_older_and_newer_checkpoints_are_the_same_network():
    model = EntropicBottleneck(2, 4)
    model.entropy_bottleneck.update()
    old = {}
    for name, value in model.state_dict().items():
        for kind, one in (("matrices", "matrix"), ("biases", "bias"), ("factors", "factor")):
            name = name.replace(f"{kind}.", f"_{one}")
        for table in ("quantized_cdf", "cdf_length", "offset"):
            name = name.replace(table, f"_{table}")
        old[f"backbone.bottleneck_layer.{name}"] = value
    old |= {
        "backbone.layer2.0.conv1.weight": torch.zeros(1),
        "backbone.bottleneck_layer.encoder.1.beta_reparam.pedestal": torch.zeros(1),
        "backbone.bottleneck_layer.encoder.1.beta_reparam.lower_bound.bound": torch.zeros(1),
        "backbone.bottleneck_layer.entropy_bottleneck.target": torch.zeros(3),
    }
    given = len(old)
    loaded = EntropicBottleneck(2, 4)
    loaded.load_state_dict(from_official(old))
    assert len(old) == given  # the caller's dictionary stays as it was
    pixels = torch.randn(1, 3, 16, 16)
    assert loaded.encode(pixels) == model.encode(pixels)
