"""Codes around networks of another precision than float32, and of images that are no squares."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_effmodels import ChannelCodedForImageClassification, CodedForImageClassification
from hf_effmodels.collaboration.codecs.entropic import EntropicBottleneck
from hf_effmodels.collaboration.codecs.slimmable import SlimmableBottleneck
from hf_effmodels.collaboration.codecs.wire import ChannelCodec, EntropicCodec, RawCodec, SlimmableCodec, UniformCodec
from hf_effmodels.collaboration.splitting import SplitHead, SplitTail, split
from hf_effmodels.collaboration.splitting.measure import measure_split

from .test_codec_training import resnet

#: Its sides are multiples of sixteen, as a hyperprior needs.
SHAPE = (2, 3, 32, 48)
CODECS = {
    "raw": RawCodec,
    "uniform": lambda: UniformCodec(5),
    "channels": lambda: ChannelCodec(6, 2, 5),
    "entropic": lambda: EntropicCodec(3, 6),
    "hyperprior": lambda: EntropicCodec(3, 6, prior="mean_scale_hyperprior"),
    "slimmable": lambda: SlimmableCodec((2, 3), 6),
}


def codec_of(kind: str, dtype: torch.dtype):
    """One of random weights, with tables where it has some."""
    torch.manual_seed(3)
    codec = CODECS[kind]().eval().to(dtype)
    bottleneck = getattr(codec, "bottleneck", None)
    if bottleneck is not None:
        last = (bottleneck.encoder if isinstance(bottleneck, EntropicBottleneck) else bottleneck.convolutions)[-1]
        last.weight.data.mul_(40)  # numbers that are not rounded to nought
    if isinstance(bottleneck, EntropicBottleneck):
        bottleneck.entropy_bottleneck.update()
    elif isinstance(bottleneck, SlimmableBottleneck):
        bottleneck.update()
    return codec


@torch.no_grad()
def restored(codec, kind: str, network, pixels: torch.Tensor) -> torch.Tensor:
    """What the network goes on with, by the modules that the code is made of."""
    if hasattr(codec, "bottleneck"):
        return codec.bottleneck(pixels.to(codec.bottleneck.decoder[0].weight.dtype))[0]
    features = network.resnet.encoder.stages[0](network.resnet.embedder(pixels))
    if kind == "raw":
        return features
    code = codec.codec.encoder(features.to(codec.codec.encoder[0].weight.dtype)) if kind == "channels" else features
    flat = code.float().flatten(1)
    low, high = (ends[:, None] for ends in flat.aminmax(dim=1))
    code = (low + ((flat - low) / (high - low) * 31).round() * ((high - low) / 31)).reshape(code.shape).to(code.dtype)
    return codec.codec.decoder(code) if kind == "channels" else code


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize(
    "dtype, own",
    [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float64, torch.float32)],
    ids=["both in bfloat16", "the network in bfloat16", "the network in float64"],
)
@torch.no_grad()
def test_any_code_is_computed_in_its_own_precision_and_gives_features_in_the_networks(dtype, kind, own, tmp_path):
    model, codec = resnet().eval().to(dtype), codec_of(kind, own)
    pixels = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)
    features = restored(codec, kind, model, pixels).to(dtype)
    behind = model.resnet.encoder.stages[1](features)
    expected = model.classifier(model.resnet.pooler(behind))
    halves = split(model, "stages.0", codec=codec, image_size=SHAPE[2:])
    for half in halves:
        half.save_pretrained(tmp_path / half.half)
    loaded = [half.from_pretrained(tmp_path / half.half) for half in (SplitHead, SplitTail)]
    for head, tail in (halves, loaded):
        found = tail(head(pixels), SHAPE)
        assert found.dtype == dtype
        near = {"rtol": 0.05, "atol": 0.05} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(found, expected, **near)
    sent, again = halves[0](pixels), loaded[0](pixels)
    assert sent.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in sent.items())
    assert torch.equal(loaded[1](sent, SHAPE), halves[1](sent, SHAPE))


@pytest.mark.parametrize(
    "kind, code",
    [
        (CodedForImageClassification, [3]),
        (CodedForImageClassification, [2, 3]),
        (ChannelCodedForImageClassification, 2),
    ],
)
@torch.no_grad()
def test_coded_classifiers_in_half_precision_come_apart(kind, code, tmp_path):
    dtype = torch.bfloat16
    coded = kind.around(resnet().eval().to(dtype), "stages.0", code)
    if kind is CodedForImageClassification:
        coded.bottleneck.convolutions[-1].weight.data.mul_(40)
    coded.fix_code()
    coded.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = coded(pixels).logits
    assert expected.dtype == dtype
    for model in (coded, AutoModelForImageClassification.from_pretrained(tmp_path, dtype=dtype)):
        head, tail = model.eval().halves()
        assert torch.equal(tail(head(pixels), (2, 3, 32, 32)), expected)


def test_costs_of_fewer_channels_are_measured_in_the_networks_precision():
    costs = measure_split(resnet().eval().to(torch.bfloat16), ["stages.0"], shrink=2, bits=4, repeats=1)
    # Three of six channels of 8 × 8 places in four bits, and the two ends of the range in 32.
    assert [cost.bits for cost in costs] == [3 * 32 * 32 * 8, 3 * 64 * 4 + 2 * 32, 0]
