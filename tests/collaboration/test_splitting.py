"""A classifier in two halves gives the numbers of the whole."""

import copy
import importlib
import inspect
import json
import socket
import sys
import time
from collections import namedtuple
from contextlib import nullcontext

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_effmodels import cli
from hf_effmodels.collaboration.codecs.entropic import EntropicBottleneck
from hf_effmodels.collaboration.codecs.wire import ChannelCodec, EntropicCodec, UniformCodec, _check_maps, codec_from
from hf_effmodels.collaboration.decomposition import take_part
from hf_effmodels.collaboration.splitting import SplitHead, SplitTail, command, measure, service, split, split_points
from hf_effmodels.collaboration.splitting.checks import check_address
from hf_effmodels.collaboration.splitting.measure import PointCost, draw_latencies, measure_split, profile_of
from hf_effmodels.collaboration.splitting.points import SplitPoint, input_shape, tensors_in, with_tensor
from hf_effmodels.hub.bundle import is_bundled
from hf_effmodels.hub.halves import export_half
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.modeling.devit.modeling_devit import DeViTForImageClassification
from hf_effmodels.registry import ARCHITECTURES

from ..hub.conftest import hub, online  # noqa: F401
from ..modeling.tiny import tiny_config
from ..threads import run_together

SIZE = (32, 32)


def resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[2, 2], layer_type="basic", num_labels=5, image_size=32
    )
    model = ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics of a network that has learnt
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def vit() -> ViTForImageClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5)).eval()


def swin() -> SwinForImageClassification:
    sizes = {"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
    return SwinForImageClassification(SwinConfig(**sizes, image_size=32, num_labels=5)).eval()


def convnext() -> ConvNextForImageClassification:
    config = ConvNextConfig(hidden_sizes=[8, 8, 12, 12], depths=[1, 1, 1, 1], image_size=32, num_labels=5)
    return ConvNextForImageClassification(config).eval()


def mobilenet() -> MobileNetV2ForImageClassification:
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.25, num_labels=5)
    return MobileNetV2ForImageClassification(config).eval()


MODELS = {
    resnet: ("stages.0", "embedder.embedder", "resnet.pooler"),
    vit: ("layers.1", "vit.embeddings"),
    swin: ("layers.0.blocks.1", "swin.encoder"),
    convnext: ("stages.2", "stages.1.downsampling_layer.0"),
    mobilenet: ("layer.3",),
}


@pytest.mark.parametrize("build", MODELS)
def test_halves_out_of_their_folders_give_the_numbers_of_the_whole(build, tmp_path):
    model, pixels = build(), torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        expected = model(pixels).logits
    for number, at in enumerate(MODELS[build]):
        folder = tmp_path / str(number)
        for half in split(model, at):
            half.save_pretrained(folder / half.half)
        head = SplitHead.from_pretrained(folder / "head")
        tail = SplitTail.from_pretrained(folder / "tail")
        assert torch.equal(tail(head(pixels), (3, 3, *SIZE)), expected)
        # Each has its own weights alone: nothing of the other half lies in its folder, nothing is missing.
        sizes = [sum(p.numel() for p in half.network.parameters() if p.device.type != "meta") for half in (head, tail)]
        assert all(sizes) and sum(sizes) == sum(p.numel() for p in model.parameters())


def test_the_model_that_is_split_stays_as_it_was():
    model = resnet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    split(model, "stages.0")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(m.training and not m._forward_hooks for m in model.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_points_are_where_the_image_goes_through():
    model = resnet()
    points = {point.name: point for point in split_points(model)}
    stage = points["resnet.encoder.stages.0"]
    assert stage.shape == (1, 8, 8, 8) and stage.num_bytes == 8 * 8 * 8 * 4
    parts = (model.resnet.embedder, model.resnet.encoder.stages[0])
    assert stage.head_parameters == sum(p.numel() for part in parts for p in part.parameters())
    assert not [name for name in points if ".layer." in name or "shortcut" in name]
    # Where stage 1 begins its shortcut has a convolution of its own: both of its ways are needed.
    assert "resnet.encoder.stages.1.layers.0.shortcut.convolution" not in points


def test_what_is_no_point_is_named():
    model = resnet()
    for at, message in (
        ("stages.7", "no such module; this model can be cut after .*resnet.encoder.stages.0"),
        ("layers.0", "may be 'resnet.encoder.stages.0.layers.0', 'resnet.encoder.stages.1.layers.0'"),
        (
            "stages.0.layers.0.layer",
            "a residual connection inside 'resnet.encoder.stages.0.layers.0' goes around it; "
            "'resnet.encoder.stages.0.layers.0' can be cut after",
        ),
        ("stages.0.layers.1.shortcut", "only passes on what it gets"),
    ):
        with pytest.raises(ValueError, match=message):
            split(model, at)
    with pytest.raises(ValueError, match="gives 2 tensors"):
        split(swin(), "encoder.layers.0")
    with pytest.raises(ValueError, match="is computed 2 times"):
        split(Twice(), "layer")


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, pixels):
        return self.last(self.layer(self.layer(pixels)).mean((2, 3)))


class Odd(nn.Module):
    """A network that does something else at its end."""

    def __init__(self, end):
        super().__init__()
        self.layer, self.last, self.end = nn.Conv2d(3, 3, 1), nn.Linear(3, 2), end

    def forward(self, pixels):
        return self.end(self.last(self.layer(pixels).mean((2, 3))))


@pytest.mark.parametrize(
    "end, message",
    [
        (lambda x: x + torch.rand_like(x), "at: cut after 'layer' the network gives other numbers than whole"),
        (lambda x: {"features": x}, "model: it returns dict without logits, accepted are classifiers"),
        (lambda x: torch.zeros_like(x), "model: its logits depend on nothing that could be followed"),
        (lambda x: x * x.sum().item(), "model: it cannot be followed by shapes alone: "),
    ],
)
def test_networks_that_cannot_be_followed_or_repeated_are_refused(end, message):
    with pytest.raises(ValueError, match=message):
        split(Odd(end), "layer")


@pytest.mark.parametrize("size", [(0, 32), (32,), (32, 1.5), True, "32"])
def test_images_have_two_sides(size):
    with pytest.raises(ValueError, match="image_size: got .*, accepted are height and width, whole numbers from 1"):
        split_points(resnet(), size)


def test_images_are_as_large_as_said_or_as_the_configuration_says():
    model = resnet()
    assert input_shape(model) == (1, 3, 32, 32) and input_shape(model, (48, 40)) == (1, 3, 48, 40)
    assert input_shape(model, 64) == (1, 3, 64, 64) and input_shape(nn.Linear(1, 1)) == (1, 3, 224, 224)
    model.config.image_size, model.config.num_channels = (24, 16), 1
    assert input_shape(model) == (1, 1, 24, 16)


def test_what_a_module_gives_is_put_together_again():
    """Of one tensor in whatever a module returns."""
    Pair = namedtuple("Pair", "first second")
    tensor, other = torch.ones(1), torch.zeros(1)
    for output in (tensor, (tensor,), [tensor], {"a": tensor}, Pair(tensor, None), {"a": (tensor, 3)}):
        assert [*tensors_in(output)] == [tensor]
        made = with_tensor(output, other)
        assert type(made) is type(output) and [*tensors_in(made)] == [other]
    assert [*tensors_in("text")] == [] and with_tensor(7, other) == 7


def test_threads_share_halves_without_mixing_up_their_images():
    head, tail = split(resnet(), "stages.0")
    images = [torch.randn(1, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.randn(1, 3, 48, 32)]
    alone = [tail(head(x), tuple(x.shape)) for x in images]
    sent = [head(x) for x in images]
    together = run_together(
        tail.network, [lambda s=s, x=x: tail(s, tuple(x.shape)) for s, x in zip(sent, images, strict=True)]
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_folders_that_are_no_half_are_refused(tmp_path):
    model = resnet()
    head, tail = split(model, "stages.0")
    head.save_pretrained(tmp_path / "head")
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="holds a head, expected a tail"):
        SplitTail.from_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="no half of a split model"):
        SplitHead.from_pretrained(tmp_path / "whole")
    facts = json.loads((tmp_path / "head" / "split.json").read_text())
    for change, message in (
        ({"format": 2}, "not of format 1"),
        ({"architecture": "ViTForImageClassification"}, "expected a ViTForImageClassification"),
        ({"codec": "zip"}, "codec: got 'zip', accepted are raw, uniform, channels, entropic"),
        ({"codec_settings": {"x": 1}}, "raw does not take"),
    ):
        (tmp_path / "head" / "split.json").write_text(json.dumps(facts | change))
        with pytest.raises(ValueError, match=message):
            SplitHead.from_pretrained(tmp_path / "head")
    (tmp_path / "head" / "split.json").write_text(json.dumps(facts))
    for content in ("{", "[1]", '{"image_processor_type": "None"}'):
        (tmp_path / "head" / "preprocessor_config.json").write_text(content)
        with pytest.raises(ValueError, match="folder: the preprocessor_config.json of .* cannot be read: "):
            SplitHead.from_pretrained(tmp_path / "head")
    (tmp_path / "head" / "preprocessor_config.json").unlink()
    with pytest.raises(TypeError, match="from_pretrained: SplitHead does not take device, dtype"):
        SplitHead.from_pretrained(tmp_path / "head", dtype="auto", device="cpu")
    assert SplitHead.from_pretrained(tmp_path / "head", trust_remote_code=True, local_files_only=True).half == "head"
    (tmp_path / "head" / "head.safetensors").write_bytes(b"\x80\x04broken")
    with pytest.raises(ValueError, match="no readable head.safetensors"):
        SplitHead.from_pretrained(tmp_path / "head")


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [0, 1], ids=["head", "tail"])
def test_a_half_is_written_over_halves_and_over_nothing_else(number, tmp_path):
    """Not into the folder of a whole model, whose configuration and card have the names of a half's."""
    model = resnet()
    half = split(model, "stages.0")[number]
    model.save_pretrained(tmp_path / "whole")
    (tmp_path / "settings").mkdir()
    model.config.save_pretrained(tmp_path / "settings")
    (tmp_path / "notes").mkdir()
    for name in ("whole", "notes"):
        (tmp_path / name / "README.md").write_text("mine")
    for name, first in (("whole", "README.md"), ("settings", "config.json"), ("notes", "README.md")):
        before = contents(folder := tmp_path / name)
        with pytest.raises(
            FileExistsError, match=rf"^folder: {folder} is not empty: it holds {first}\. Name a new or"
        ):
            half.save_pretrained(folder)
        assert contents(folder) == before
    (folder := tmp_path / "half").mkdir()
    half.save_pretrained(folder)  # an empty one
    before = contents(folder) | {"notes.txt": b"mine"}
    (folder / "notes.txt").write_text("mine")
    (folder / f"{half.half}.safetensors").write_bytes(b"an older one")
    half.save_pretrained(folder)
    assert contents(folder) == before


def test_a_command_cuts_no_model_into_folders_of_whole_ones(tmp_path, capsys):
    model = resnet()
    for name in ("model", "out/tail"):
        model.save_pretrained(tmp_path / name)
    before = contents(tmp_path)
    assert cli.main(["split", str(tmp_path / "model"), str(tmp_path / "out"), "--at", "stages.0"]) == 2
    assert f"{tmp_path}/out/tail is not empty: it holds config.json" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_half_that_lacks_a_weight_or_tells_no_cut_is_refused(tmp_path):
    split(resnet(), "stages.0")[0].save_pretrained(tmp_path)
    file, facts = tmp_path / "head.safetensors", json.loads((tmp_path / "split.json").read_text())
    weights = load_file(file)
    first = "network.resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
    rest = {name: value for name, value in weights.items() if name != first}
    for damaged, message in (
        (rest, f"holds {len(rest)} tensors of the {len(weights)} that it was saved with"),
        ({**rest, "other.weight": weights[first]}, "other.weight is neither the network's nor the codec's"),
        ({**rest, "network.weight": weights[first]}, "weight does not belong to ResNetForImageClassification"),
        ({**weights, first: weights[first][:1].clone()}, "does not belong to ResNetForImageClassification"),
    ):
        save_file(damaged, file)
        with pytest.raises(ValueError, match=message):
            SplitHead.from_pretrained(tmp_path)
    save_file(weights, file)
    for name, value in (
        ("at", "nowhere"),
        ("at", 3),
        ("dtype", "float33"),
        ("dtype", "nn"),
        ("codec", []),
        ("codec_settings", "x"),
        ("attention", 3),
    ):
        (tmp_path / "split.json").write_text(json.dumps(facts | {name: value}))
        with pytest.raises(ValueError, match=f"folder: .*{'nowhere' if value == 'nowhere' else 'is damaged'}"):
            SplitHead.from_pretrained(tmp_path)
    del facts["tensors"]  # as older folders are
    (tmp_path / "split.json").write_text(json.dumps(facts))
    assert SplitHead.from_pretrained(tmp_path).facts.at == "resnet.encoder.stages.0"


def test_a_published_half_is_its_own_files_and_nothing_else(hub, online, tmp_path, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    (tmp_path / "code_of_somebody.py").write_text(
        "from transformers import ViTImageProcessorPil\nclass Theirs(ViTImageProcessorPil): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("code_of_somebody").Theirs
    theirs.register_for_auto_class("AutoImageProcessor")  # saved with its code from now on
    folder, (head, tail) = tmp_path / "head", split(resnet(), "stages.0", processor=theirs())
    head.save_pretrained(folder)
    assert (folder / "code_of_somebody.py").is_file()
    with caplog.at_level("WARNING"):  # code of folders is not run
        assert SplitHead.from_pretrained(folder).processor is None
    assert "image processor of" in caplog.text and "from_pretrained(folder, processor=...)" in caplog.text
    assert type(SplitHead.from_pretrained(folder, processor=theirs()).processor) is theirs
    for name in ("id_rsa", ".env", "token.txt"):
        (folder / name).write_text("secret")
    (folder / "link").symlink_to(tmp_path)
    monkeypatch.chdir(folder)
    for half in (head, tail):
        half.push_to_hub(f"org/{half.half}", token=" maker\n")
        own = {"README.md", "config.json", "split.json", "preprocessor_config.json", f"{half.half}.safetensors"}
        files = hub.files(f"org/{half.half}")
        code = {name for name in files if name.endswith(".py")}
        assert files.keys() - code == own and "halves.py" in code and all(is_bundled(files[name]) for name in code)
    # Of a network whose code cannot be put beside it the half goes without code, and the card says so.
    with monkeypatch.context() as patch:
        patch.setattr("hf_effmodels.hub.halves.is_portable", lambda model_type: False)
        head.push_to_hub("org/foreign", token="maker", private=True)
    bare = hub.files("org/foreign")
    whole = {"README.md", "config.json", "split.json", "preprocessor_config.json", "head.safetensors"}
    assert bare.keys() == whole and hub.repos["org/foreign"].visibility == "private"
    assert bare["README.md"].decode() == head.card() != hub.files("org/head")["README.md"].decode()
    with pytest.raises(ValueError, match="token: it has characters that no token has") as error:
        head.push_to_hub("org/head", token="mak\ner")
    assert "mak\ner" not in str(error.value)
    with pytest.raises(PermissionError, match="token: it may not write to other/head"):
        head.push_to_hub("other/head", token="maker")


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_a_uniform_code_is_half_a_step_off_at_most_and_packed(bits):
    features = torch.randn(2, 5, 3, 3) * torch.tensor([1.0, 50.0])[:, None, None, None]
    codec = codec_from("uniform", UniformCodec(bits).settings())
    sent = codec.encode(features)
    assert sent["levels"].shape == (2, -(-45 * bits // 8)) and sent["levels"].dtype == torch.uint8
    restored = codec.decode(sent, (2, 5, 3, 3), torch.float32)
    flat = features.flatten(1)
    step = (flat.amax(1) - flat.amin(1)) / (2**bits - 1)  # of each image, not of the batch
    assert ((restored - features).flatten(1).abs().amax(1) <= step / 2 * 1.001).all()
    ends = restored.flatten(1).aminmax(dim=1)
    torch.testing.assert_close(torch.stack(ends), torch.stack(flat.aminmax(dim=1)))
    even = torch.full((1, 4), 7.0)
    assert torch.equal(codec.decode(codec.encode(even), (1, 4), torch.float32), even)


def test_wrong_codes_are_refused():
    codec = UniformCodec(4)
    sent = codec.encode(torch.randn(1, 6))
    for change, message in (
        ({"levels": sent["levels"][:, :2]}, "levels is torch.uint8"),
        ({"low": sent["high"] + 1}, "in order"),
        ({"low": sent["low"] * float("nan")}, "finite"),
        ({"low": sent["low"] * 0 - 3e38, "high": sent["high"] * 0 + 3e38}, "finite distance"),
        ({"extra": sent["low"]}, "accepted are"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.decode(sent | change, (1, 6), torch.float32)
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(ValueError, match="too far apart"):
        codec.encode(torch.tensor([[-3e38, 3e38]]))
    # One image of several is enough.
    fine = [1.0, 2.0, 3.0]
    for wrong, message in (([0.0, float("nan"), 1.0], "not finite"), ([-3e38, 0.0, 3e38], "too far apart")):
        with pytest.raises(ValueError, match=message):
            codec.encode(torch.tensor([fine, wrong]))
    two = codec.encode(torch.tensor([fine, fine]))
    for low in ([1.0, 5.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="accepted are finite numbers in order"):
            codec.decode(two | {"low": torch.tensor(low)}, (2, 3), torch.float32)
    for bits in (0, 9, 2.5):
        with pytest.raises(ValueError, match="bits: got"):
            UniformCodec(bits)


def test_a_codec_travels_in_both_folders(tmp_path):
    torch.manual_seed(1)
    model, pixels = resnet(), torch.randn(2, 3, 32, 32)
    codec = ChannelCodec(8, shrink=3, bits=6)
    head, tail = split(model, "stages.0", codec=codec)
    sent = head(pixels)
    assert sent["levels"].numel() == 2 * (2 * 8 * 8 * 6) // 8
    features = head.features(pixels)
    code = codec.quantizer.encode(codec.codec.encode(features))
    restored = codec.codec.decoder(codec.quantizer.decode(code, (2, 2, 8, 8), torch.float32))
    with torch.no_grad():
        hidden = model.resnet.encoder.stages[1](restored)
        expected = model.classifier(model.resnet.pooler(hidden))
    torch.testing.assert_close(tail(sent, (2, 3, 32, 32)), expected)
    for half in (head, tail):
        half.save_pretrained(tmp_path / half.half)
    again = SplitTail.from_pretrained(tmp_path / "tail")
    loaded = SplitHead.from_pretrained(tmp_path / "head")
    assert torch.equal(again(loaded(pixels), (2, 3, 32, 32)), tail(sent, (2, 3, 32, 32)))
    with pytest.raises(ValueError, match="accepted are .batch, 9, height, width"):
        split(model, "stages.0", codec=ChannelCodec(9, 3))


def test_an_entropic_bottleneck_stands_in_the_place_of_the_head(tmp_path):
    torch.manual_seed(2)
    model, pixels = resnet(), 3 * torch.randn(2, 3, 32, 32)
    bottleneck = EntropicBottleneck(4, 8).eval()
    with pytest.raises(ValueError, match="update"):
        split(model, "stages.0", codec=EntropicCodec.of(bottleneck))
    bottleneck.entropy_bottleneck.update()
    for half in split(model, "stages.0", codec=EntropicCodec.of(bottleneck)):
        half.save_pretrained(tmp_path / half.half)
    head, tail = SplitHead.from_pretrained(tmp_path / "head"), SplitTail.from_pretrained(tmp_path / "tail")
    assert all(p.device.type == "meta" for p in head.network.parameters())
    sent = head(pixels)
    assert sent["streams"].numel() == sent["lengths"].sum() == bottleneck.encode(pixels).num_bytes
    with torch.no_grad():
        features = bottleneck(pixels)[0]
        expected = model.classifier(model.resnet.pooler(model.resnet.encoder.stages[1](features)))
    torch.testing.assert_close(tail(sent, (2, 3, 32, 32)), expected)
    for change, message in (
        ({"lengths": sent["lengths"] + 1}, "lengths: got"),
        ({"lengths": sent["lengths"] * 0}, "lengths: got"),
        ({"streams": sent["streams"].flip(0)}, "streams: they have been damaged"),
        ({"check": sent["check"] + 1}, "streams: they have been damaged"),
        ({"streams": sent["streams"].float()}, "streams is torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            tail(sent | change, (2, 3, 32, 32))
    with pytest.raises(ValueError, match="decodes 8 channels"):
        split(model, "resnet.encoder", codec=EntropicCodec.of(bottleneck))


def test_a_codec_whose_weights_do_not_fit_is_refused(tmp_path):
    split(resnet(), "stages.0", codec=ChannelCodec(8, shrink=2, bits=6))[0].save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "split.json").read_text())
    facts["codec_settings"]["shrink"] = 4
    (tmp_path / "split.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=f"folder: {tmp_path}: the codec's weights do not fit: "):
        SplitHead.from_pretrained(tmp_path)


def test_a_picture_of_costs_needs_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="picture: it needs matplotlib, pip install matplotlib"):
        draw_latencies(tmp_path / "costs.png", [PointCost("image", 8, 0.0, 1.0)], 1e6, 1e7)


def test_the_commands_do_what_their_functions_do_unless_they_are_told_otherwise(tmp_path, monkeypatch, capsys):
    resnet().save_pretrained(folder := tmp_path / "model")
    called, costs = [], [PointCost("image", 8000, 0.0, 0.5), PointCost("whole", 0, 0.25, 0.0)]
    own = {name: p.default for name, p in inspect.signature(measure_split).parameters.items()}
    monkeypatch.setattr(
        measure, "measure_split", lambda model, points, **options: called.append((points, options)) or costs
    )
    assert cli.main(["measure-split", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"at": "image", "bits": 8000, "head_seconds": 0.0, "tail_seconds": 0.5},
        {"at": "whole", "bits": 0, "head_seconds": 0.25, "tail_seconds": 0.0},
    ]
    more = {
        "at": "a",
        "device-slowdown": 2.0,
        "repeats": 3,
        "shrink": 4,
        "bits": 5,
        "image-size": 64,
        "bandwidth": 1e4,
    }
    words = [str(word) for name, value in more.items() for word in (f"--{name}", value)]
    assert cli.main(["measure-split", str(folder), *words, "--processor-time"]) == 0
    # Over ten kilobits a second the image takes 0.8 seconds and half of one, the device a quarter.
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["8000", "0.00", "500.00", "1300.00", "image"]
    assert table[2].split() == ["0", "250.00", "0.00", "250.00", "*", "whole"]
    (_, plain), (points, told) = called
    assert plain == {name: own[name] for name in plain} and {*plain} == {*own} - {"model", "points"}
    assert points == ["a"] and told == {
        "bits": 5, "shrink": 4, "image_size": (64, 64), "repeats": 3, "device_slowdown": 2.0, "processor_time": True
    }  # fmt: skip
    assert cli.main(["split", str(folder), str(tmp_path / "out")]) == 2
    assert "--at: name a module and an OUTPUT folder" in capsys.readouterr().err


def test_a_tail_is_served_within_the_limits_that_are_said(tmp_path, monkeypatch, capsys):
    model, served = resnet(), []
    for half in split(model, "stages.0"):
        half.save_pretrained(tmp_path / half.half)
    model.save_pretrained(tmp_path / "whole")
    take_part(assemble_devit(), 0).save_pretrained(tmp_path / "part")
    monkeypatch.setattr(command, "listen", lambda host, port: nullcontext((host, port)))
    monkeypatch.setattr(service, "serve", lambda tail, **options: served.append((tail, options)))
    monkeypatch.setenv("HF_EFFMODELS_TAIL_TOKEN", " secret\n")
    capsys.readouterr()
    assert cli.main(["serve-tail", str(tmp_path / "tail")]) == 0
    told = "ResNetForImageClassification after resnet.encoder.stages.0: http://127.0.0.1:8000\n"
    assert capsys.readouterr() == (told, "")
    more = {"max-bytes": 7, "max-images": 8, "max-pixels": 9, "workers": 2, "queue": 0, "timeout": 1.5, "port": 81}
    words = [str(word) for name, value in more.items() for word in (f"--{name}", value)]
    assert cli.main(["serve-tail", str(tmp_path / "tail"), *words, "--host", "0.0.0.0", "--token", "mine"]) == 0
    assert "everybody" not in capsys.readouterr().err
    monkeypatch.delenv("HF_EFFMODELS_TAIL_TOKEN")
    for name in ("whole", "part"):
        assert cli.main(["serve-tail", str(tmp_path / name), "--images", "--host", "0.0.0.0"]) == 0
        assert "everybody who reaches this address may compute; --token asks for one" in capsys.readouterr().err
    (tail, first), (_, second), (all_of_it, third), (one_part, _) = served
    limits = service.ServiceLimits
    assert (tail.half, first["token"], first["limits"]) == ("tail", "secret", limits())
    assert (first["host"], first["port"], first["listener"]) == ("127.0.0.1", 8000, ("127.0.0.1", 8000))
    assert second["limits"] == limits(7, 8, 9, 2, 0, 1.5)
    assert (second["token"], second["host"], second["port"], third["token"]) == ("mine", "0.0.0.0", 81, None)
    assert (all_of_it.facts.at, one_part.facts.at) == ("image", "part")


def assemble_devit() -> DeViTForImageClassification:
    sizes = part_sizes(8, 1, 2)
    return DeViTForImageClassification(DeViTConfig(parts=[sizes, sizes], image_size=16, patch_size=8, num_labels=5))


def test_a_preset_has_random_weights_and_says_so(capsys):
    model, processor = command.load_classifier("ghostnet-0.5x")
    assert not model.training and model.config.width_multiplier == 0.5 and processor is not None
    assert "hf-effmodels: the preset's weights are random." in capsys.readouterr().err


def test_costs_are_those_of_each_point_and_choose_by_the_link():
    model = resnet()
    costs = measure_split(model, ["stages.0", "stages.1"], bits=8, repeats=1, device_slowdown=100.0)
    assert [cost.at for cost in costs][1:-1] == ["resnet.encoder.stages.0", "resnet.encoder.stages.1"]
    assert [cost.bits for cost in costs] == [3 * 32 * 32 * 8, (512 + 8) * 8, (12 * 16 + 8) * 8, 0]
    assert costs[0].head_seconds == 0 and costs[-1].tail_seconds == 0
    assert costs[-1].head_seconds > 20 * costs[0].tail_seconds  # a hundred times slower, in noise
    # Of the processor's seconds those do not count in which it waits for others.
    slow = copy.deepcopy(model)
    slow.register_forward_pre_hook(lambda module, args: time.sleep(0.2))
    for option, least, most in ((True, 0.0, 0.19), (False, 0.2, 60.0)):
        found = measure_split(slow, ["stages.0"], repeats=1, processor_time=option)
        assert least < found[-1].head_seconds < most
    fewer = measure_split(model, ["stages.0"], bits=4, shrink=3, repeats=1)
    assert fewer[1].bits == 8 * (2 * 64 * 4 // 8 + 8)
    shrunk = measure_split(model, shrink=3, repeats=1)  # what has no channels of maps is not among those taken
    assert len(shrunk) > 2 and not any(cost.at.startswith("classifier") for cost in shrunk)
    assert PointCost("x", 1000, 0.25, 0.5).latency(500.0) == 2.75
    profile = profile_of(costs, 3.0)
    assert profile.watts == (0.0, 3.0, 3.0, 3.0) and profile.joules[-1] == pytest.approx(3 * profile.seconds[-1])
    for options, message in (
        ({"repeats": 0}, "repeats: got 0"),
        ({"device_slowdown": 0.0}, "device_slowdown: got 0"),
        ({"points": ["nowhere"]}, "nowhere"),
        ({"bits": 9}, "bits: got 9"),
        ({"shrink": 0}, "shrink"),
        ({"shrink": 2, "points": ["classifier.0"]}, "shrink: got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_split(model, **options)
    for bandwidth in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="bandwidth: got"):
            costs[0].latency(bandwidth)


def any_size(tmp_path, side: int) -> str:
    """A folder with a network that says no size, and a processor that makes squares of this side."""
    config = resnet().config
    del config.image_size
    ResNetForImageClassification(config).save_pretrained(tmp_path / f"any-{side}")
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(tmp_path / f"any-{side}")
    return str(tmp_path / f"any-{side}")


def test_the_commands_split_and_measure_a_folder(tmp_path, capsys):
    model = resnet()
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    assert cli.main(["split", folder, "--list"]) == 0
    said = capsys.readouterr().out
    assert "resnet.encoder.stages.0 [1, 8, 8, 8]" in said and "after, with images of 32 × 32 pixels\n" in said
    # Of a network that takes any size what its processor makes of pictures, or what is asked for.
    for options, side in (([], 64), (["--image-size", "96"], 96)):
        assert cli.main(["split", any_size(tmp_path, 64), "--list", *options]) == 0
        said = capsys.readouterr().out
        assert f"stages.0 [1, 8, {side // 4}, {side // 4}]" in said and f"images of {side} × {side} pixels" in said
    assert cli.main(["measure-split", any_size(tmp_path, 64), "--at", "stages.0", "--repeats", "1"]) == 0
    said = capsys.readouterr().out
    assert f"{3 * 64 * 64 * 8:>10} " in said and "milliseconds of one image of 64 × 64 pixels; * the fastest" in said
    out = tmp_path / "the halves"
    assert cli.main(["split", folder, str(out), "--at", "stages.0", "--bits", "8"]) == 0
    assert capsys.readouterr().out == (
        f"{out}/head  {out}/tail  cut after resnet.encoder.stages.0\nnext: hf-effmodels serve-tail '{out}/tail'\n"
    )
    head = SplitHead.from_pretrained(out / "head")
    assert head.facts.codec_settings == {"bits": 8} and head.processor.size == {"height": 32, "width": 32}
    file = tmp_path / "costs.json"
    options = ["--at", "stages.0", "--repeats", "1", "--output", str(file), "--watts", "4", "--bandwidth", "1e6"]
    picture = ["--picture", str(tmp_path / "costs.png")]
    assert cli.main(["measure-split", folder, *options, "1e8", *picture]) == 0
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
    assert "1e+06 bit/s" in capsys.readouterr().out
    assert json.loads(file.read_text())["profile"]["watts"] == [0.0, 4.0, 4.0]
    listener = socket.create_server(("127.0.0.1", 0))
    taken = str(listener.getsockname()[1])
    for argv, message in (
        (["split", folder], "--at: name a module"),
        (["split", folder, str(tmp_path / "x"), "--at", "stages.9"], "--at: got 'stages.9'"),
        (["split", folder, str(tmp_path / "x"), "--at", "stages.0", "--bits", "9"], "--bits: got 9"),
        (
            ["split", str(out / "head"), str(tmp_path / "x"), "--at", "stages.0"],
            "holds a half of a split",
        ),
        (["measure-split", folder, "--bandwidth", "0"], "--bandwidth: got 0"),
        (["measure-split", folder, "--bandwidth"], "--bandwidth: expected at least one"),
        (["measure-split", folder, "--watts", "-1"], "--watts: got -1"),
        (["measure-split", folder, *picture], "--picture: "),
        (["measure-split", folder, "--bandwidth", "1e6", "--picture", "new.png"], "--picture: it goes over two"),
        (
            ["measure-split", folder, *options[:4], "--output", "/proc/x.json"],
            "--output: /proc/x.json cannot be",
        ),
        (
            ["measure-split", folder, "--picture", "x.jpg"],
            "--picture: got 'x.jpg', accepted are names that",
        ),
        (["split", folder, "/proc/x", "--at", "stages.0"], "OUTPUT: /proc/x/head cannot be written (No such file"),
        (["serve-tail", str(tmp_path), "--images"], "FOLDER: "),
        (["serve-tail", folder], "FOLDER: "),
        (["serve-tail", str(out / "tail"), "--images"], "holds a half of a split model"),
        (["serve-tail", str(out / "head")], "holds a head, expected a tail"),
        (["serve-tail", str(out / "tail"), "--port", taken], f"--host, --port: 127.0.0.1, {taken}: it"),
        (["serve-tail", str(out / "tail"), "--token", "two words"], "--token: accepted are letters"),
        (["measure-split", str(tmp_path / "nowhere")], "MODEL: there is no folder or file"),
        (["serve-tail", folder, "--port", "0"], "--port: got 0"),
        (["serve-tail", folder, "--queue", "-1"], "--queue: got -1"),
    ):
        assert cli.main(argv) == 2 and message in capsys.readouterr().err, argv
    listener.close()
    assert not (tmp_path / "x").exists()
    # What somebody else has written stays; what these commands have is replaced.
    (tmp_path / "thesis" / "head").mkdir(parents=True)
    theirs = [tmp_path / "thesis.json", tmp_path / "photo.jpg", tmp_path / "thesis" / "head" / "README.md"]
    for path in theirs:
        path.write_bytes(b'{"points": 3}\xff' if path.suffix == ".jpg" else b'{"points": 3}')
    for argv, message in (
        (["measure-split", folder, *options[:4], "--output", str(theirs[0])], "--output: "),
        (["measure-split", folder, *options[:4], "--output", str(theirs[1])], "--output: "),
        (["split", folder, str(tmp_path / "thesis"), "--at", "stages.0"], "is not empty: it holds README.md"),
    ):
        assert cli.main(argv) == 2 and message in capsys.readouterr().err, argv
    assert all(path.read_bytes().startswith(b'{"points": 3}') for path in theirs)
    again = ["split", folder, str(out), "--at", "stages.0"]
    assert cli.main(again) == 2  # an earlier cut is not replaced without a word
    assert f"OUTPUT: {out / 'head'} is not empty; choose another folder, or " in capsys.readouterr().err
    assert SplitHead.from_pretrained(out / "head").facts.codec != "raw"
    assert cli.main([*again, "--overwrite"]) == 0
    assert SplitHead.from_pretrained(out / "head").facts.codec == "raw"
    assert cli.main(["measure-split", folder, *options]) == 0


@pytest.mark.parametrize(
    "shape, fits",
    [((2, 8, 2, 2), True), ((2, 8, 1, 2), False), ((2, 8, 2, 1), False), ((2, 4, 8, 8), False), ((2, 8, 4), False)],
)
def test_a_code_of_maps_gives_maps_of_two_rows_and_columns_or_more(shape, fits):
    if fits:
        assert _check_maps(shape, 8) is None
        return
    with pytest.raises(ValueError, match="codec: the network expects features .* it decodes 8 channels of maps"):
        _check_maps(shape, 8)


@pytest.mark.parametrize(
    "command, option, least, most",
    [
        ("serve-tail", "--port", 1, 65535),
        ("serve-tail", "--max-bytes", 1, 2**40),
        ("serve-tail", "--max-images", 1, 2**30),
        ("serve-tail", "--max-pixels", 1, 2**50),
        ("serve-tail", "--workers", 1, 1024),
        ("serve-tail", "--queue", 0, 2**30),
        ("measure-split", "--repeats", 1, 10**6),
        ("measure-split", "--shrink", 1, 2**20),
        ("measure-split", "--bits", 1, 8),
        ("measure-split", "--image-size", 1, 16384),
        ("split", "--bits", 1, 8),
        ("split", "--image-size", 1, 16384),
        ("assemble", "--fusion-hidden-size", 1, 2**20),
    ],
)
def test_numbers_of_the_commands_go_from_the_least_to_the_most(command, option, least, most, tmp_path, capsys):
    places = [str(tmp_path / "nowhere"), str(tmp_path / "nor")][: 2 if command in ("split", "assemble") else 1]
    for number in (least, most, least - 1, most + 1):
        assert cli.main([command, *places, option, str(number)]) == 2
        said = capsys.readouterr().err
        assert (f"{option}: got {number}" in said) == (not least <= number <= most), (number, said)


@pytest.mark.parametrize("processor_time", [False, True])
def test_only_the_device_is_slower_and_every_half_is_measured_as_often(processor_time, monkeypatch):
    asked = []
    monkeypatch.setattr(measure, "_seconds", lambda call, *how: asked.append(how) or 0.5)
    costs = measure_split(resnet(), ["stages.0"], repeats=7, device_slowdown=3.0, processor_time=processor_time)
    assert [(cost.head_seconds, cost.tail_seconds) for cost in costs] == [(0.0, 0.5), (1.5, 0.5), (1.5, 0.0)]
    assert asked == [(7, time.process_time if processor_time else time.perf_counter)] * 3


def test_of_several_measurements_the_median_counts_and_the_first_call_does_not():
    spent = iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0])
    called = []
    assert measure._seconds(lambda: called.append(1), 3, lambda: next(spent)) == 2.0
    assert len(called) == 4


@pytest.mark.parametrize("change", ["weight", "statistic", "classifier", "codec", "bits", "kind", "place"])
def test_halves_belong_together_only_where_all_that_they_compute_with_is_the_same(change):
    def digests(model, codec, at="stages.0"):
        head, tail = split(model, at, codec=codec)
        assert head.facts.digest == tail.facts.digest
        return head.facts.digest

    model, codec = resnet(), ChannelCodec(8, 2, 5)
    before = digests(model, codec)
    assert digests(copy.deepcopy(model), copy.deepcopy(codec)) == before
    other, sender, at = copy.deepcopy(model), copy.deepcopy(codec), "stages.0"
    with torch.no_grad():
        if change == "weight":
            next(other.parameters()).flatten()[0] += 1e-6
        elif change == "statistic":
            next(value for name, value in other.named_buffers() if name.endswith("running_mean")).add_(1)
        elif change == "classifier":
            other.classifier[-1].bias[-1] += 1
        elif change == "codec":
            list(sender.parameters())[-1].flatten()[0] += 1
        elif change == "bits":
            sender = ChannelCodec(8, 2, 4)
            sender.load_state_dict(codec.state_dict())
        elif change == "kind":
            sender = UniformCodec(5)
        else:
            at, sender = "stages.1", None
            before = digests(model, None)
    assert digests(other, sender, at) != before


def test_points_that_are_measured_send_fewer_bytes_each_and_the_logits_are_none_of_them():
    def point(name, *shape):
        return SplitPoint(name, (1, *shape), "float32", 0)

    points = [point("a", 4, 4, 4), point("b", 4, 4, 4), point("c", 8, 4, 4), point("d", 2, 4, 4), point("e", 12)]
    points += [point("f", 1, 3, 3), point("g", 5), point("h", 9)]
    assert measure._smaller_and_smaller(points, maps_only=False) == ["a", "d", "e", "f"]
    assert measure._smaller_and_smaller(points, maps_only=True) == ["a", "d", "f"]
    assert measure._smaller_and_smaller(points[:1], maps_only=False) == ["a"]
    many = [point(str(number), 40 - number, 2, 2) for number in range(12)]
    assert measure._smaller_and_smaller(many, maps_only=False) == [str(number) for number in range(3, 11)], "eight"


@pytest.mark.parametrize(
    "url", ["http://x", "https://x", "https://models.example.org:8443/tail/", "HTTPS://X", "http://[::1]:80"]
)
def test_a_tail_is_asked_over_http_with_and_without_encryption(url):
    check_address(url)


@pytest.mark.parametrize(
    "url",
    ["x", "//x", "ftp://x", "httpss://x", "file:///x", "http://", "https://:80", "http://x:0", "https://x:65536"]
    + ["https://x y", "https://x\n", "https://\u00e4", None, 3],
)
def test_what_is_no_address_of_a_tail_is_refused(url):
    with pytest.raises(ValueError, match="^url: got .*, accepted are http:// and https:// addresses.$"):
        check_address(url)


@pytest.mark.parametrize("model_type", ["resnet", "channel_coded_classifier"])
def test_a_half_is_published_with_every_file_that_an_exported_one_has(model_type, hub, online, tmp_path, monkeypatch):  # noqa: F811
    """Which is what it loads by where this package is not installed."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    if model_type == "resnet":
        head, _ = split(resnet(), "stages.0")
    else:
        architecture = ARCHITECTURES[model_type]
        model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture, num_labels=2))
        model.eval().fix_code()
        head, _ = model.halves()
    export_half(head, tmp_path / "head")
    head.push_to_hub("org/head", token="maker")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "head").iterdir()}
    assert hub.files("org/head") == whole
    mapping = json.loads(whole["config.json"])["auto_map"]
    assert all(f"{place.partition('.')[0]}.py" in whole for place in mapping.values())
