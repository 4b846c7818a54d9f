"""An encoder of several widths and one decoder: each width is a bottleneck by itself."""

import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.collaboration.codecs.entropic import EntropicBottleneck
from hf_effmodels.collaboration.codecs.slimmable import SlimmableBottleneck
from hf_effmodels.collaboration.codecs.wire import SlimmableCodec
from hf_effmodels.collaboration.splitting import SplitClassifier, SplitHead, SplitTail, split
from hf_effmodels.collaboration.splitting.messages import DIGEST, pack

from .test_service import ask, served
from .test_splitting import resnet


def slimmable() -> SlimmableBottleneck:
    """Widths 2, 3 and 5, whose norms and priors are not what they begin with."""
    torch.manual_seed(4)
    bottleneck = SlimmableBottleneck([5, 2, 3], target_channels=8).eval()
    with torch.no_grad():
        for name, parameter in bottleneck.named_parameters():
            if name.startswith("norms"):
                parameter.add_(0.2 * torch.rand_like(parameter))
    bottleneck.update()
    return bottleneck


def divided(x: torch.Tensor, norm) -> torch.Tensor:
    """GDN1 by its formula, place by place."""
    beta, gamma = norm.beta**2 - 2.0**-36, norm.gamma**2 - 2.0**-36
    return x / (beta[:, None, None] + torch.einsum("ij,bjhw->bihw", gamma, x.abs()))


@torch.no_grad()
def test_each_width_is_its_formula_and_a_bottleneck_by_itself():
    bottleneck, pixels = slimmable(), 4 * torch.randn(2, 3, 32, 32)
    assert bottleneck.widths == (2, 3, 5)
    first, second, last = (c.weight for c in bottleneck.convolutions)
    for width in bottleneck.widths:
        norms, prior = bottleneck.norms[str(width)], bottleneck.priors[str(width)]
        x = divided(F.conv2d(pixels, first[: 4 * width], stride=2, padding=2), norms[0])
        x = divided(F.conv2d(x, second[: 2 * width, : 4 * width], stride=2, padding=2), norms[1])
        latent = F.conv2d(x, last[:width, : 2 * width])
        torch.testing.assert_close(bottleneck.encoder(pixels, width), latent, rtol=1e-4, atol=1e-5)
        # The one decoder, as if the channels that are not sent were nought.
        code = F.pad(prior.round(latent), (0, 0, 0, 0, 0, 5 - width))
        torch.testing.assert_close(bottleneck(pixels, width=width)[0], bottleneck.decoder(code), rtol=1e-4, atol=1e-5)
        alone = bottleneck.at(width)
        assert isinstance(alone, EntropicBottleneck) and alone.encoder[-1].out_channels == width
        for ours, theirs in zip(bottleneck(pixels, width=width), alone(pixels), strict=True):
            torch.testing.assert_close(ours, theirs)
        coded = bottleneck.encode(pixels, width)
        assert coded == alone.encode(pixels)
        torch.testing.assert_close(bottleneck.decode(coded, width), bottleneck(pixels, width=width)[0])
    assert bottleneck.encode(pixels, 2).num_bytes < bottleneck.encode(pixels).num_bytes
    noise = torch.rand(2, 3, 7, 7) - 0.5
    expected = bottleneck.at(3)(pixels, noise)
    torch.testing.assert_close(bottleneck(pixels, noise, width=3), expected)


def test_widths_learn_together_and_what_is_a_widths_own_by_itself():
    bottleneck, pixels = SlimmableBottleneck([1, 2], 4), torch.randn(2, 3, 16, 16)
    features, likelihoods = bottleneck(pixels, width=1)
    (features.sum() - likelihoods.log2().sum()).backward()
    gradients = {name: p.grad for name, p in bottleneck.named_parameters()}
    assert all(
        (g is None) == (".2." in n)
        for n, g in gradients.items()
        if n.startswith(("norms", "priors")) and "quantiles" not in n
    )
    weight = gradients["convolutions.1.weight"]
    assert weight[:2, :4].abs().min() > 0 and not weight[2:].any() and not weight[:, 4:].any()
    assert gradients["decoder.0.weight"][:, :1].any() and not gradients["decoder.0.weight"][:, 1:].any()


def test_a_request_chooses_its_width_over_the_service(tmp_path):
    bottleneck, model, pixels = slimmable(), resnet(), 4 * torch.randn(2, 3, 32, 32)
    for half in split(model, "stages.0", codec=SlimmableCodec.of(bottleneck)):
        half.save_pretrained(tmp_path / half.half)
    head, tail = SplitHead.from_pretrained(tmp_path / "head"), SplitTail.from_pretrained(tmp_path / "tail")
    assert head.codec.widths == (2, 3, 5) and head.facts.codec_settings["widths"] == [2, 3, 5]
    sizes = []
    with served(tail) as url:
        client = SplitClassifier(head, url)
        for width in (2, 3, 5, None):
            answer = client.logits(pixels, width=width)
            with torch.no_grad():
                features = bottleneck(pixels, width=width)[0]
                expected = model.classifier(model.resnet.pooler(model.resnet.encoder.stages[1](features)))
            torch.testing.assert_close(answer.logits, expected)
            sizes.append(answer.bytes_sent)
        assert sizes[0] < sizes[1] < sizes[2] == sizes[3]
        with pytest.raises(ValueError, match="width: got 4, accepted are 2, 3, 5"):
            client.logits(pixels, width=4)
        sent = head(pixels, width=3)
        for change, message in (
            ({"width": torch.tensor([4])}, b"width: got 4"),
            ({"width": torch.tensor([3, 3])}, b"width must be one"),
            ({"width": torch.tensor([2])}, b"stream"),
        ):
            status, said = ask(url, pack(sent | change, (2, 3, 32, 32)), **{DIGEST: tail.facts.digest})
            assert status == 400 and message in said, change
        assert client.logits(pixels, width=2).attempts == 1


def test_widths_that_are_none_are_named():
    for widths in ([], [2, 2], [0], [True], [1.5]):
        with pytest.raises(ValueError, match="widths: got"):
            SlimmableBottleneck(widths)
    with pytest.raises(ValueError, match="target_channels: got 0"):
        SlimmableBottleneck([1], 0)
    head, _ = split(resnet(), "stages.0")
    with pytest.raises(ValueError, match="width: got 3, but the codec raw has no widths"):
        head(torch.randn(1, 3, 32, 32), width=3)
