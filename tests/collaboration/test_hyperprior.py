"""A code whose numbers' distributions are told by a side code: what was sent arrives, in the bytes estimated."""

import math

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels import ChannelCodedForImageClassification, CodedForImageClassification
from hf_effmodels.collaboration.codecs import hyperprior
from hf_effmodels.collaboration.codecs.entropic import BottleneckShape, EntropicBottleneck
from hf_effmodels.collaboration.codecs.hyperprior import HyperPrior, scale_table
from hf_effmodels.collaboration.codecs.measured import measure_coded
from hf_effmodels.collaboration.codecs.prior import FactorizedPrior, bits
from hf_effmodels.collaboration.splitting import SplitHead, SplitTail
from hf_effmodels.training.losses.coded_features import CodedFeaturesLoss

from ..threads import run_together
from .test_codec_training import STAGES, Bars, learn, resnet

KINDS = pytest.mark.parametrize("means", [False, True], ids=["scale", "mean and scale"])


def prior_of(means: bool, channels: int = 4) -> HyperPrior:
    """One that tells deviations of many sizes, and means other than nought."""
    torch.manual_seed(5)
    prior = HyperPrior(channels, 3, means).eval()
    with torch.no_grad():
        for layer in (0, 2, 4):
            prior.synthesis[layer].weight.mul_(5)
    prior.update()
    return prior


def normal(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


@KINDS
@torch.no_grad()
def test_likelihoods_are_those_of_the_normal_distributions_that_are_told(means):
    prior, code = prior_of(means), 3 * torch.randn(2, 4, 7, 7)
    noise = torch.rand(2, 4, 7, 7) - 0.5, torch.rand(2, 3, 2, 2) - 0.5
    noisy, likelihoods = prior(code, noise)
    assert torch.equal(noisy, code + noise[0]) and likelihoods.shape == (2, 4 * 49 + 3 * 4)
    analysis = prior.analysis(code if means else code.abs()) + noise[1]
    told = prior.synthesis(analysis)
    scales, centers = told.chunk(2, 1) if means else (told, torch.zeros_like(told))
    expected = []
    for value, scale, center in zip(noisy.flatten(), scales.flatten(), centers.flatten(), strict=True):
        value, scale, center = float(value), max(float(scale), 0.11), float(center)
        ends = sorted(((value - center + half) / scale for half in (0.5, -0.5)), reverse=True)
        if ends[1] > 0:  # differences of small numbers
            ends = [-ends[1], -ends[0]]
        expected.append(max(normal(ends[0]) - normal(ends[1]), 1e-9))
    found = likelihoods[:, : 4 * 49].flatten()
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-3, atol=1e-7)
    torch.testing.assert_close(likelihoods[:, 4 * 49 :], prior.side.likelihoods(analysis).flatten(1))
    assert len({round(float(scale), 3) for scale in scales.flatten()}) > 20


@KINDS
@torch.no_grad()
def test_what_is_decoded_is_what_was_rounded_and_costs_what_was_estimated(means, monkeypatch):
    prior = prior_of(means, channels=24)
    side = 4 * torch.randn(2, 3, 4, 4)
    scales, centers = prior.parameters_of(prior.side.round(side), torch.empty(2, 24, 15, 15))
    code = centers + scales * torch.randn_like(scales)
    monkeypatch.setattr(prior, "side_code", lambda given: side[-len(given) :])
    rounded, likelihoods = prior(code)
    assert torch.equal(prior.round(code), rounded)
    torch.testing.assert_close(rounded, (code - centers).round() + centers, rtol=1e-5, atol=1e-5)
    streams = prior.compress(code)
    assert torch.equal(prior.decompress(streams, (15, 15)), rounded)
    assert sum(map(len, streams)) == pytest.approx(float(bits(likelihoods).sum()) / 8, rel=0.03)
    theirs = prior.compress(code, compressai=True)
    assert torch.equal(prior.decompress(theirs, (15, 15), compressai=True), rounded)
    again = HyperPrior(24, 3, means)
    again.load_state_dict(prior.state_dict())  # the tables travel with the weights
    assert torch.equal(again.decompress(streams, (15, 15)), rounded)
    with pytest.raises(ValueError, match="stream"):
        prior.decompress([theirs[0][:-4]], (15, 15), compressai=True)
    with pytest.raises(ValueError, match="^stream: it ends too early.$"):
        prior.decompress([streams[0][: 3 + int.from_bytes(streams[0][:3], "little") - 1]], (15, 15))
    with pytest.raises(ValueError, match="it is not finite"):
        prior.compress(code * float("nan"))


@torch.no_grad()
def test_a_number_is_coded_by_the_smallest_deviation_that_is_not_below_its_own(monkeypatch):
    prior, table = prior_of(False), scale_table()
    assert table[0] == 0.11 and float(table[-1]) == pytest.approx(256)
    torch.testing.assert_close(table[1:] / table[:-1], torch.full((63,), (256 / 0.11) ** (1 / 63)).double())
    for row in (0, 20, 63):
        scale, length, offset = float(table[row]), int(prior.cdf_length[row]), int(prior.offset[row])
        assert length == 3 - 2 * offset  # a number more than on both sides of nought, and the escape
        assert -offset - 1 < 6.1094 * scale <= -offset + 1e-3  # outside of it lies 1e-9
        ends = prior.quantized_cdf[row, : length + 1].tolist()[:length]
        assert ends[0] == 0 and ends[-1] == 2**16
        middle = (ends[1 - offset] - ends[-offset]) / 2**16
        assert middle == pytest.approx(normal(0.5 / scale) - normal(-0.5 / scale), abs=2e-2 if scale > 100 else 2e-4)
    code, asked = torch.zeros(1, 4, 7, 7), []
    told = torch.tensor([0.05, 0.11, 0.12, 300.0]).double()[None, :, None, None].expand(1, 4, 7, 7)
    monkeypatch.setattr(prior, "_told", lambda side, like: (told.clamp_min(0.11), torch.zeros_like(told)))
    monkeypatch.setattr(hyperprior, "encode", lambda numbers, tables, *rest, **options: asked.extend(tables) or b"")
    prior.compress(code)
    above = next(i for i, scale in enumerate(table.tolist()) if scale >= 0.12)
    assert asked[::49] == [0, 0, above, 63]


@KINDS
def test_both_stages_learn_around_a_network_and_the_halves_load(means, tmp_path):
    torch.manual_seed(0)
    sizes = {"embedding_size": 6, "hidden_sizes": [6, 8], "depths": [1, 1], "layer_type": "basic"}
    whole = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3, image_size=32)).eval()
    prior = "mean_scale_hyperprior" if means else "scale_hyperprior"
    student = CodedForImageClassification.around(whole, "stages.0", [3], prior=prior, hyper_channels=2)
    before = {name: value.clone() for name, value in student.bottleneck.named_parameters()}
    curve = learn(student, whole, CodedFeaturesLoss(list(STAGES), beta=0.01), tmp_path, 4, 0.01)
    assert curve[-1] < curve[0]
    still = [n for n, v in student.bottleneck.named_parameters() if torch.equal(v, before[n])]
    assert not [name for name in still if "priors.3.side.factors" not in name]
    student.fix_code()
    pixels = Bars(4).pixels
    measured = measure_coded(student.eval(), Bars(8))
    assert measured["bytes"] > 0 and measured["estimated_bytes"] > 0
    student.save_pretrained(tmp_path / "model")
    again = CodedForImageClassification.from_pretrained(tmp_path / "model").eval()
    for half in again.halves():
        half.save_pretrained(tmp_path / half.half)
    head, tail = SplitHead.from_pretrained(tmp_path / "head"), SplitTail.from_pretrained(tmp_path / "tail")
    with torch.no_grad():
        expected = student(pixels).logits
    torch.testing.assert_close(tail(head(pixels), tuple(pixels.shape)), expected)
    with torch.no_grad(), pytest.raises(ValueError, match="accepted are images whose sides are multiples of 16"):
        student(torch.randn(1, 3, 40, 40))


@pytest.mark.parametrize(
    "make",
    [
        lambda model: CodedForImageClassification.around(model, "stages.0", [3], prior="mean_scale_hyperprior"),
        lambda model: ChannelCodedForImageClassification.around(model, "stages.0", 2, 5),
    ],
    ids=["hyperprior", "channels"],
)
def test_threads_share_a_coded_classifier(make):
    model = make(resnet().eval()).eval()
    images = [torch.randn(1, 3, side, 32, generator=torch.Generator().manual_seed(side)) for side in (32, 48, 64)]
    images[0] = images[0].expand(2, -1, -1, -1)

    def ask(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # a thread has a mode of its own
            return model(pixels).logits

    alone = [ask(pixels) for pixels in images]
    together = run_together(model, [lambda pixels=pixels: ask(pixels) for pixels in images])
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_shapes_of_a_bottleneck_that_are_none_are_named():
    for options, message in (
        ({"prior": "x"}, "prior: got 'x', accepted are factorized, scale_hyperprior, mean_scale_hyperprior"),
        ({"hyper_channels": 0}, "hyper_channels: got 0"),
        ({"encoder_channels": [4]}, r"encoder_channels: got \[4\], accepted are two whole numbers from 1"),
        ({"decoder_channels": [4, True]}, "decoder_channels: got"),
    ):
        with pytest.raises(ValueError, match=message):
            BottleneckShape(8, **options)
    narrow = EntropicBottleneck(5, 6, encoder_channels=[7, 8], decoder_channels=[9, 10])
    sizes = [tuple(layer.weight.shape[:2]) for part in (narrow.encoder, narrow.decoder) for layer in part[::2]]
    assert sizes == [(7, 3), (8, 7), (5, 8), (9, 5), (10, 9), (6, 10)]


@KINDS
@torch.no_grad()
def test_the_side_code_is_computed_as_published(means):
    """Of magnitudes through a ReLU; where means are told, too, of the numbers themselves through a leaky one, and told
    by half as many channels again."""
    prior, code = prior_of(means, channels=6), 5 * torch.randn(2, 6, 7, 7)
    first, last = (prior.analysis[number].weight for number in (0, 2))
    inner = torch.nn.functional.conv2d(code if means else code.abs(), first, stride=2, padding=1)
    inner = torch.where(inner > 0, inner, 0.01 * inner if means else 0 * inner)
    expected = torch.nn.functional.conv2d(inner, last, stride=2, padding=2)
    torch.testing.assert_close(prior.side_code(code), expected)
    widths = [module.weight.shape[:2] for module in prior.synthesis if hasattr(module, "weight")]
    assert widths == [(3, 3), (3, 4 if means else 3), (12 if means else 6, 4 if means else 3)]


@pytest.mark.parametrize(
    "name, means", [("factorized", None), ("scale_hyperprior", False), ("mean_scale_hyperprior", True)]
)
def test_a_prior_is_of_the_kind_that_it_is_called(name, means):
    prior = BottleneckShape(8, prior=name, hyper_channels=5).make_prior(3)
    assert prior.channels == 3 and isinstance(prior, FactorizedPrior if means is None else HyperPrior)
    if means is not None:
        assert prior.means is means and prior.side.channels == 5
