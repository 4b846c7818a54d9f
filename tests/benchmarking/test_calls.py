"""What a timed call gives its network and what a step leaves behind, told by stand-ins; and what names of layers and
published sizes say, counted from them."""

import platform
import re
import types
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch
from torch import nn

from hf_effmodels.benchmarking import (
    accuracy,
    binary_layers,
    distilled,
    layers,
    peers,
    runs,
    tables,
    without_data,
    workloads,
)
from hf_effmodels.benchmarking.arguments import make_parser
from hf_effmodels.benchmarking.command import plan
from hf_effmodels.benchmarking.counting import count
from hf_effmodels.benchmarking.official_parameternet import grouped, per_image, plain_parameternet
from hf_effmodels.benchmarking.runs import Row, summarize
from hf_effmodels.benchmarking.workloads import make_call
from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.layers.binary import BinaryConv2d
from hf_effmodels.modeling.parameternet.dynamic_conv import DynamicConv
from hf_effmodels.training.losses import interface

from ..progress import Bars
from .test_workloads import ROW, Said


def asked(preset: str, **row) -> dict:
    return {**ROW, "preset": preset, "length": 8, "new_tokens": 3, "overrides": {}, **row}


# images


class Logits(nn.Module):
    """Logits that are its weights, and what a distillation adds."""

    def __init__(self, **distillation):
        super().__init__()
        self.weight, self.distillation = nn.Parameter(torch.zeros(12)), distillation
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pixels):
        self.inference = torch.is_inference_mode_enabled()
        added = {name: factor * self.weight.sum() for name, factor in self.distillation.items()}
        more = {"distillation": added} if added else {}
        return types.SimpleNamespace(logits=self.weight.expand(len(pixels), -1), **more)


def test_a_step_learns_the_classes_one_after_the_other_and_what_is_distilled_beside_them():
    gradients = []
    for model in (Logits(), Logits(kd=2.0, ofa=3.0)):
        call = make_call(model, asked("vanillanet-5", mode="train", batch=11))
        call()
        first = model.weight.grad.clone()
        gradients.append(first)
        moved = model.weight.detach().clone()
        call()
        # Of one pass: what the one before has left is not in it. The logits have hardly moved.
        torch.testing.assert_close(model.weight.grad, first, atol=0.01, rtol=0.01)
        assert model.training and not torch.equal(model.weight, moved)
    # Of eleven images the classes are 0 to 9 and 0 again; of twelve logits all are as likely.
    counts = torch.tensor([2.0] + [1.0] * 9 + [0.0] * 2)
    torch.testing.assert_close(gradients[0], 1 / 12 - counts / 11)
    torch.testing.assert_close(gradients[1] - gradients[0], torch.full((12,), 5.0))


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 11])
def test_a_step_has_no_classes_that_a_model_has_not(classes):
    """More images than classes: they go round earlier than at ten."""

    class Few(Logits):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(classes))

    model = Few()
    make_call(model, asked("vanillanet-5", mode="train", batch=12))()
    counts = torch.zeros(classes)
    for image in range(12):
        counts[image % min(classes, 10)] += 1
    torch.testing.assert_close(model.weight.grad, 1 / classes - counts / 12)


@pytest.mark.parametrize("peer", ["teacher-beside", "distilled-kd", "distilled-stored"])
def test_a_student_of_few_classes_is_distilled_on_more_images_than_it_has_classes(peer, monkeypatch):
    network = {"hidden_sizes": [8, 12], "strides": [2], "image_size": 32, "num_labels": 2}
    small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
    monkeypatch.setattr(distilled, "_TEACHER", small)
    model = peers.PEERS[peer].build("vanillanet-5", False, network)
    before = {name: value.clone() for name, value in model.named_parameters()}
    make_call(model, asked("vanillanet-5", mode="train", batch=5, peer=peer, image_size=32))()
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())


@pytest.mark.parametrize(("classes", "learned"), [(1, [0, 0]), (2, [0, 1]), (80, [0, 1])])
def test_boxes_are_of_classes_that_a_detector_has(classes, learned):
    model = Said(num_labels=classes)
    make_call(model, asked("gold-yolo-n", mode="train", batch=2))()
    assert [label["class_labels"].tolist() for label in model.given[0][1]["labels"]] == [learned] * 2


@pytest.mark.parametrize("peer, layout", [("ours", torch.channels_last), ("timm", torch.contiguous_format)])
def test_ours_is_trained_in_the_layout_that_it_is_trained_in_and_peers_in_theirs(peer, layout):
    model = Logits()
    make_call(model, asked("vanillanet-5", mode="train", peer=peer))
    assert model.conv.weight.is_contiguous(memory_format=layout)
    assert not model.conv.weight.is_contiguous(
        memory_format=torch.channels_last if layout is torch.contiguous_format else torch.contiguous_format
    )


def test_a_network_is_compiled_where_that_is_asked_for(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or (lambda pixels: "compiled"))
    model = Logits()
    assert make_call(model, asked("vanillanet-5", backend="compile"))() == "compiled" and compiled == [model]
    make_call(model, asked("vanillanet-5"))()
    assert model.inference and len(compiled) == 1


# text, and text with images

SEEING = {
    "text_config": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": 99,
    },
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "patch_size": 14, "image_size": 224,
    },
    "image_token_id": 99,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["infer", "train", "generate"])
def test_a_text_with_an_image_has_its_token_at_one_place_which_is_not_learned(mode):
    model = Said()
    model.generate = lambda **given: model.given.append((given["input_ids"], given))
    make_call(model, asked("adem_vl-7b-caption", mode=mode, overrides=SEEING))()
    ids, given = model.given[0]
    assert ids.shape == (2, 8) and ids[:, 5].tolist() == [99, 99] and given["pixel_values"].shape == (2, 3, 224, 224)
    words = ids[:, [0, 1, 2, 3, 4, 6, 7]]
    assert 3 <= words.min() <= words.max() < 99
    if mode == "train":
        assert given["labels"][:, 5].tolist() == [-100, -100] and given["use_cache"] is False
        assert torch.equal(given["labels"][:, [0, 1, 2, 3, 4, 6, 7]], words)
        assert model.training and model.weight[0] < 1
    if mode == "infer":
        assert given["use_cache"] is True and given["logits_to_keep"] == 1
    if mode == "generate":
        assert (given["max_new_tokens"], given["min_new_tokens"], given["pad_token_id"]) == (3, 3, 0)


def test_a_text_is_learned_as_it_stands():
    model = Said(vocab_size=9)
    make_call(model, asked("pangu-pi-15m", mode="train"))()
    ids, given = model.given[0]
    assert ids.shape == (2, 8) and torch.equal(given["labels"], ids) and given["use_cache"] is False
    assert model.training and model.weight[0] < 1


def two_towers(length: int, longest: int = 77):
    text = types.SimpleNamespace(max_position_embeddings=longest, bos_token_id=50, eos_token_id=51)
    model = Said(text_config=text, mask_token_id=52)
    return model, asked("light_clip-resnet-18", length=length, image_size=8)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_texts_beside_images_begin_and_end_and_are_no_longer_than_the_tower_takes(mode):
    model, row = two_towers(30, longest=20)
    make_call(model, {**row, "mode": mode, "peer": "clip"})()
    ((given,),) = model.given
    ids = given["input_ids"]
    assert ids.shape == (2, 20) and given["pixel_values"].shape == (2, 3, 8, 8)
    assert ids[:, 0].tolist() == [50, 50] and ids[:, -1].tolist() == [51, 51]
    assert 1 <= ids[:, 1:-1].min() <= ids[:, 1:-1].max() < 50
    assert given.get("return_loss", False) is (mode == "train")
    assert bool(model.weight[0] < 1) is (mode == "train")


@pytest.mark.parametrize("length, masked", [(22, 3), (5, 1), (12, 2)])
def test_of_a_lightclips_texts_one_word_in_seven_is_masked_and_one_at_least(length, masked, monkeypatch):
    trained = Said()
    monkeypatch.setattr(workloads, "LightClipForPreTraining", lambda config: trained)
    model, row = two_towers(length)
    make_call(model, {**row, "mode": "train"})()
    ((given,),) = trained.given
    places = torch.zeros(2, length, dtype=torch.bool)
    places[:, 1 : 1 + masked] = True
    assert (given["mlm_input_ids"] == 52).equal(places) and (given["mlm_labels"] != -100).equal(places)
    assert torch.equal(given["mlm_labels"][places], given["input_ids"][places])
    assert torch.equal(given["mlm_input_ids"][~places], given["input_ids"][~places])
    assert given["softening"] == 0.1 and trained.weight[0] < 1


# detectors, denoisers


def test_a_detector_learns_two_boxes_of_each_image():
    model = Said()
    make_call(model, asked("gold-yolo-n", mode="train", batch=3))()
    _, given = model.given[0]
    assert len(given["labels"]) == 3
    for label in given["labels"]:
        assert label["class_labels"].tolist() == [0, 1] and label["boxes"].shape == (2, 4)
        centres, sizes = label["boxes"].split(2, 1)
        assert (centres - sizes / 2 >= 0).all() and (centres + sizes / 2 <= 1).all() and (sizes > 0).all()
    assert model.training and model.weight[0] < 1


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_denoiser_takes_a_step_from_the_middle_of_its_way(mode):
    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.given = nn.Parameter(torch.tensor(2.0)), []
            config = {"num_channels": 3, "scale": 4, "condition_channels": 5, "num_conditions": 2}
            self.unet = types.SimpleNamespace(config=types.SimpleNamespace(**config))

        def forward(self, *given):
            self.given.append(given)
            return self.scale * given[0]

    model = Denoiser()
    make_call(model, asked("sam-diffsr-x4", mode=mode, image_size=32))()
    residuals, timesteps, maps = model.given[0]
    assert residuals.shape == (2, 3, 32, 32) and timesteps.tolist() == [50, 50]
    assert [one.shape for one in maps] == [(2, 5, 8, 8)] * 2
    if mode == "train":
        # |2 x - x| comes down where the factor does.
        assert model.scale < 2 and model.scale.grad.item() == pytest.approx(residuals.abs().mean().item(), rel=1e-5)
    else:
        assert model.scale == 2


def test_a_masked_model_learns_its_own_loss():
    model = Said()
    make_call(model, asked("fastmim-vit-base", mode="train"))()
    assert model.given[0][0].shape == (2, 3, 8, 8) and model.training and model.weight[0] < 1
    assert make_call(model, asked("fastmim-vit-base"))().loss.requires_grad is False


# layers


@pytest.mark.parametrize("name", layers.LAYERS)
def test_a_layer_has_the_sizes_of_its_name(name):
    """Adder layers: filters, values of a filter, positions. Binary ones: channels, side."""
    layer = layers.LAYERS[name]
    kind, *numbers = re.findall(r"^[a-z]+|\d+", name)
    module = layers.build(name)[0]
    if kind == "adder":
        values = layer.in_channels * layer.kernel_size**2
        assert [layer.out_channels, values, layer.images * layer.side**2] == [*map(int, numbers)]
        assert isinstance(module, AdderConv2d) and layer.modes == ("infer", "train")
    else:
        assert [layer.in_channels, layer.side] == [*map(int, numbers)] and layer.kernel_size == 3
        assert (layer.out_channels, layer.images, layer.modes) == (layer.in_channels, 1, ("infer",))
        assert isinstance(module, BinaryConv2d)
    shape = (layer.out_channels, layer.in_channels, layer.kernel_size, layer.kernel_size)
    assert module.weight.shape == shape and module.bias is None and not module.training
    padding = module.padding[0] if isinstance(module.padding, tuple) else module.padding
    assert 2 * padding == layer.kernel_size - 1, "as many outputs as positions"


@pytest.mark.parametrize("options", [["--model-config", '{"num_labels": 2}'], ["--image-size", "32"]])
def test_a_layer_has_its_sizes_whatever_is_asked_for(options):
    arguments = make_parser().parse_args(["--presets", "binary-128x28", *options])
    with pytest.raises(ValueError, match="^--model-config, --image-size: go with networks; binary-128x28 has its si"):
        plan(arguments)


# peers


def test_a_detector_of_transformers_has_the_maps_and_the_strides_that_it_says():
    for peer, strides in (("rt-detr-r18", [8, 16, 32]), ("d-fine-n", [16, 32])):
        model = peers.PEERS[peer].build("gold-yolo-n", False, {})
        config = model.config
        assert [*config.feat_strides] == strides and config.num_labels == 80 and not model.training
        with torch.no_grad():
            maps = [each[0] for each in model.model.backbone(torch.zeros(1, 3, 64, 64), torch.ones(1, 64, 64))]
        assert [64 // each.shape[-1] for each in maps] == strides
        assert [each.shape[1] for each in maps] == [*config.encoder_in_channels]
        assert config.num_feature_levels >= len(strides) and config.decoder_layers == 3


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("peer", "preset", "sizes"),
    [
        ("real-resnet", "adabin-resnet18", {"hidden_sizes": [8, 8, 8], "depths": [1, 1], "image_size": 32}),
        (
            "vit-like",
            "devit-s",
            {
                "parts": [{"hidden_size": 8, "head_dim": 4, "num_heads": [2], "intermediate_sizes": [8]}],
                "image_size": 32,
            },
        ),
    ],
    ids=["real-resnet", "vit-like"],
)
def test_what_classifies_beside_a_preset_takes_images_of_its_channels(peer, preset, sizes, channels):
    overrides = {**sizes, "num_channels": channels, "num_labels": 5}
    model = peers.PEERS[peer].build(preset, False, overrides)
    with torch.no_grad():
        assert model(torch.zeros(2, channels, 32, 32)).logits.shape == (2, 5)


@pytest.mark.parametrize("peer", ["ghostnet", "ghostnet-official-like"])
def test_a_ghostnet_of_as_many_multiply_adds_takes_and_tells_what_the_preset_does(peer, monkeypatch):
    monkeypatch.setattr(peers, "ghostnet_width", lambda macs: 0.1)
    model = peers.PEERS[peer].build("parameternet-600m", False, {"num_channels": 2, "num_labels": 5})
    with torch.no_grad():
        found = model(torch.zeros(2, 2, 32, 32))
    assert getattr(found, "logits", found).shape == (2, 5)


def test_a_real_resnet_has_the_classes_and_the_sizes_of_the_binary_one():
    overrides = {"hidden_sizes": [16, 16, 32], "depths": [1, 2], "image_size": 64, "num_labels": 7}
    model = peers.PEERS["real-resnet"].build("adabin-resnet18", False, overrides)
    config = model.config
    assert (config.embedding_size, config.hidden_sizes, config.depths) == (16, [16, 32], [1, 2])
    assert (config.layer_type, config.num_labels, model.training) == ("basic", 7, False)
    weight = next(m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("macs, width", [(100, 0.5), (109, 0.5), (111, 0.55), (1, 0.05), (10**9, 10.0)])
def test_a_ghostnet_is_as_wide_as_comes_nearest(macs, width, monkeypatch):
    """Of multiply-adds that grow by 20 a step from 100 at a width of 0.5."""
    cost = {step: 100 + 20 * (step - 10) if step >= 10 else 10 * step for step in range(1, 201)}
    steps = []

    def count(name, overrides):
        assert name == "ghostnet-1.0x"
        steps.append(round(20 * overrides["width_multiplier"]))
        return types.SimpleNamespace(macs=cost[steps[-1]])

    monkeypatch.setattr("hf_effmodels.benchmarking.counting.count_preset", count)
    assert peers.ghostnet_width(macs) == width and len(steps) == len({*steps}) <= 10


def test_a_language_model_in_bfloat16_is_ours_in_evaluation(monkeypatch):
    made = nn.Linear(1, 1)
    monkeypatch.setattr(peers, "ours", lambda *given: made)
    assert peers.PEERS["bfloat16"].build("pangu-pi-15m", False, {}) is made
    assert made.weight.dtype == torch.bfloat16 and not made.training


class Given(nn.Module):
    def forward(self, *given):
        self.given = given


@pytest.mark.parametrize("peer", ["distilled-kd", "distilled-stored"])
def test_what_is_distilled_knows_the_classes_of_its_images(peer):
    """0 to 9, one after the other, as in every step; of a stored table the rows go round."""
    kind = distilled.Distilled if peer == "distilled-kd" else distilled.DistilledByStored
    model = kind.__new__(kind)
    nn.Module.__init__(model)
    model.distilled, model.classes, asked_for = Given(), 10, []
    if peer == "distilled-kd":
        model._teacher, model.losses = [lambda pixels: "what the teacher says"], ("kd",)
    else:
        known = lambda epoch, numbers, order: asked_for.append((epoch, numbers.tolist())) or torch.ones(1)  # noqa: E731
        model._labels, model.rows = types.SimpleNamespace(logits=known), 4
    model(torch.zeros(12, 3, 8, 8))
    pixels, given = model.distilled.given
    assert pixels.shape == (12, 3, 8, 8) and given["epochs"] == 1
    if peer == "distilled-kd":
        assert given["labels"].tolist() == [*range(10), 0, 1] and given["teacher"] == "what the teacher says"
    else:
        assert asked_for == [(0, [0, 1, 2, 3] * 3)] and given["labels"].tolist() == [0, 1, 2, 3] * 3
        model.rows = 11
        model(torch.zeros(12, 3, 8, 8))
        assert model.distilled.given[1]["labels"].tolist() == [*range(10), 0, 0]
        model.eval()(torch.zeros(12, 3, 8, 8))
        assert len(model.distilled.given) == 1


@pytest.mark.parametrize("classes, kept", [(3, 3), (12, 10)])
def test_what_is_stored_are_the_ten_likeliest_classes_or_all(classes, kept, monkeypatch):
    asked_for = []
    monkeypatch.setattr(distilled, "_stored", lambda folder, *numbers: asked_for.append(numbers))
    student = peers.PEERS["ours"].build("vanillanet-5", False, {**SMALL, "num_labels": classes})
    assert distilled.DistilledByStored(student).rows == 512 and asked_for == [(classes, 512, kept)]


SMALL = {"hidden_sizes": [8, 12], "strides": [2], "image_size": 32}


# numbers


def test_a_run_without_processor_time_has_a_ratio_of_it():
    row = Row(preset="pangu-pi-15m", peer="x", backend="eager", batch=1, threads=1, mode="infer", folded=False)
    run = {"seconds": 1.0, "peak_bytes": 1}
    ready = {"parameters": 1, "allocated_bytes": 0}
    found = summarize(row, [{**run, "cpu_seconds": 0.0}], [{**run, "cpu_seconds": 1.0}], ready)
    assert found.cpu_ratio > 1e6 and found.ratio == 1 and found.allocated_mb == 0


def test_a_machine_is_told_with_what_is_installed_there(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return real(name) if name in ("torch", "transformers") else "1.2"

    monkeypatch.setattr(metadata, "version", version)
    told = tables.machine()
    assert told["versions"] == {
        "torch": real("torch"), "transformers": real("transformers"), "onnxruntime": "1.2", "openvino": "1.2"
    }  # fmt: skip
    assert (told["python"], told["dtype"]) == (platform.python_version(), "float32")
    assert told["system"] == platform.platform() and told["processor"]


def result(name: str, peer: str = "ours", **more) -> runs.Result:
    row = {"preset": name, "peer": peer, "backend": "eager", "batch": 1, "threads": 1, "mode": "infer"}
    numbers = dict.fromkeys("quartile_1 quartile_3 cpu cpu_ratio peak_mb".split(), 2.0)
    return runs.Result(
        Row(**row, folded=False),
        1,
        median=2.0,
        ratio=1.5,
        allocated_mb=None,
        parameters=1,
        macs=None,
        **numbers,
        **more,
    )


@pytest.mark.draws
def test_bars_stand_in_the_order_of_the_rows_and_ours_in_a_colour_of_its_own(tmp_path, monkeypatch):
    from matplotlib import colors, pyplot

    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    tables.draw([result("a", "timm"), result("b"), result("c")], tmp_path / "b.png")
    (axis,) = pyplot.gcf().axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a timm eager", "b ours eager", "c ours eager"]
    first, second, third = (colors.to_hex(bar.get_facecolor()) for bar in axis.patches)
    assert second == third != first and axis.yaxis_inverted()
    assert axis.get_xlabel() == "milliseconds (median, quartiles)" and (tmp_path / "b.png").stat().st_size > 1000
    pyplot.close("all")


def test_columns_of_some_are_there_where_one_row_has_them():
    names, first, second = tables.table([result("a"), result("b", accuracy=0.5)])
    assert names[-1] == "top-1 %" and (first[-1], second[-1]) == ("", "50.00")
    assert "tokens/s" not in names and len(first) == len(second) == len(names)
    assert tables.markdown([result("a")]).splitlines()[1].count("---") == len(tables.COLUMNS) - 2


@pytest.mark.draws
def test_panels_are_as_high_as_the_one_with_the_most_rows_needs(tmp_path, monkeypatch):
    """An inch, and 0.35 for each row: bars of a panel with fewer rows are thicker, none is squeezed."""
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    several = [result("a", "timm"), result("b"), result("c"), result("d")]
    tables.draw([*several, replace(several[1], row=replace(several[1].row, batch=8))], tmp_path / "b.png")
    assert pyplot.gcf().get_size_inches().tolist() == pytest.approx([8, 2 * (1 + 0.35 * 4)])
    pyplot.close("all")


def test_each_loss_of_a_distillation_is_built_for_its_student_and_its_teacher(monkeypatch):
    built, network = [], {**SMALL, "num_labels": 3}

    class Loss(interface.DistillationLoss):
        def student_features(self):
            return []

        def build(self, networks):
            built.append(networks.num_classes)

    small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
    monkeypatch.setattr(distilled, "_TEACHER", small)
    monkeypatch.setattr(distilled, "make_losses", lambda named: {name: Loss() for name in named})
    student = peers.PEERS["ours"].build("vanillanet-5", False, network)
    assert distilled.Distilled(student, ["one", "two"]).losses == ("one", "two") and built == [3, 3]


def test_a_plain_parameternet_takes_pixels_in_the_contiguous_layout():
    model = nn.Module()
    model.prepare_pixels = lambda pixels: pixels.to(memory_format=torch.channels_last)
    model.conv = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)
    plain = plain_parameternet(model, grouped)
    pixels = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert plain.prepare_pixels(pixels).is_contiguous() and not model.prepare_pixels(pixels).is_contiguous()
    assert plain.conv.weight.is_contiguous() and not model.conv.weight.is_contiguous()
    assert not hasattr(plain.conv, "prepare_pixels")


@pytest.mark.parametrize("convolve", [grouped, per_image])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"kernel_size": 3, "groups": 2}, {"kernel_size": 5, "stride": 2}, {"kernel_size": 3, "num_experts": 3}],
)
def test_a_plain_dynamic_convolution_has_the_maps_and_the_bias_of_ours(convolve, bias, sizes):
    torch.manual_seed(0)
    ours = DynamicConv(4, 6, bias=bias, **sizes).double()
    if bias:
        nn.init.uniform_(ours.bias, -3, 3)
    plain = plain_parameternet(ours, convolve)
    pixels = torch.randn(3, 4, 7, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels), ours(pixels), rtol=1e-9, atol=1e-9)


def test_a_convolution_beside_a_binary_one_has_its_sizes_in_the_layout_that_is_fast():
    layer = BinaryConv2d(4, 6, 3, stride=2, padding=1)
    conv = binary_layers.in_float32(layer)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding) == (
        4, 6, (3, 3), (2, 2), (1, 1)
    )  # fmt: skip
    assert conv.weight.is_contiguous(memory_format=torch.channels_last) and not conv.weight.is_contiguous()


@pytest.mark.parametrize(
    "preset, kind, settings",
    [
        ("vanillanet-5", torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9}),
        ("gold-yolo-n", torch.optim.SGD, {"lr": 1e-4, "momentum": 0.9}),
        ("pangu-pi-15m", torch.optim.AdamW, {"lr": 1e-4}),
    ],
)
def test_a_step_is_that_of_the_optimizer_which_trains_such_networks(preset, kind, settings, monkeypatch):
    made = []
    monkeypatch.setattr(workloads, "_training_step", lambda model, loss, optimizer: made.append(optimizer))
    model = Logits()
    model.config = types.SimpleNamespace(vocab_size=9)
    model.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    make_call(model, asked(preset, mode="train"))
    (optimizer,) = made
    assert type(optimizer) is kind and settings.items() <= optimizer.defaults.items()
    learned = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    assert learned == {id(p) for p in model.parameters() if p.requires_grad}


def test_what_a_network_follows_by_shapes_alone_is_no_work_of_it():
    class Half(nn.Module):
        idle_modules = ("idle",)

        def __init__(self):
            super().__init__()
            self.busy, self.idle = nn.Linear(4, 5, bias=False), nn.Linear(4, 7, bias=False)

        def forward(self, values):
            return self.busy(values), self.idle(values)

    cost = count(Half(), torch.zeros(3, 4))
    assert (cost.macs, cost.parameters) == (3 * 4 * 5, 4 * 5 + 4 * 7) and type(cost.macs) is int
    Half.idle_modules = ()
    assert count(Half(), torch.zeros(3, 4)).macs == 3 * 4 * (5 + 7)


@pytest.mark.parametrize("size, kind", [(64, "small"), (72, "large_normalized")])
def test_images_are_made_by_the_generator_of_their_size(size, kind, monkeypatch):
    made, generator = [], without_data.DataFreeGenerator

    def make(*given, **options):
        made.append((*given, options))
        return generator("small", 8, **options)

    monkeypatch.setattr(without_data, "DataFreeGenerator", make)
    monkeypatch.setattr(without_data, "create_image_processor", lambda name, image_size: (name, image_size))
    monkeypatch.setattr(without_data, "input_of", lambda made, channels: types.SimpleNamespace(size=made[1]))
    monkeypatch.setattr(without_data, "Teacher", lambda *given: types.SimpleNamespace(name=given[0], width=1))
    overrides = {"hidden_sizes": [4, 8, 16], "depths": [1, 1], "num_heads": 1, "num_labels": 5, "image_size": size}
    without_data.Turn("mhwrn4x161", overrides, whole=True)
    assert made == [(kind, size, {"num_channels": 3})]


def test_how_far_an_accuracy_is_goes_by_pictures_and_is_shown_on_a_terminal_alone(monkeypatch):
    bars = Bars()

    class Pictures(list):
        labels = np.array([1, 0, 1, 1, 0])

        def read(self, number, channels):
            return torch.full((channels, 2, 2 + number // 3), float(number))  # some processors keep shapes

    def network(pixel_values):
        numbers = pixel_values[:, 0, 0, 0].long()
        return types.SimpleNamespace(logits=torch.stack([numbers % 2 == 0, numbers % 2 == 1], 1).float())

    network.config = types.SimpleNamespace(num_channels=2)
    monkeypatch.setattr(accuracy, "tqdm", bars)
    monkeypatch.setattr(accuracy, "_BATCH", 2)
    monkeypatch.setattr(accuracy, "load_network", lambda source, auto, device: network)
    monkeypatch.setattr(accuracy, "load_part", lambda *_: None)
    monkeypatch.setattr(
        "hf_effmodels.training.tasks.image_classification.transforms.EvaluationTransform",
        lambda part: lambda image: image,
    )
    # The classes that are found are 0, 1, 0, 1, 0: of those above the last two.
    assert accuracy._top1("net", Pictures(range(5))) == 2 / 5
    assert bars.made == [{"desc": "accuracy of net", "unit": "image", "total": 5, "disable": None}]
    assert bars.moved == [2, 2, 1]


def test_layers_by_themselves_are_timed_on_what_they_had_in_the_network_without_being_watched_any_more():
    first, other = BinaryConv2d(4, 4, 3, padding=1), BinaryConv2d(4, 4, 1)
    ran = []

    class Stand(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, inputs):
            ran.append((self.layer, inputs))
            return len(ran)

    layers = binary_layers.Layers(nn.Sequential(first, other, first), Stand)
    pixels = torch.randn(2, 4, 5, 5)
    assert (layers(pixels), layers(torch.zeros(1, 4, 5, 5))) == (2, 4), "what comes later says nothing"
    assert [layer for layer, _ in ran] == [first] * 4 and torch.equal(ran[0][1], pixels)
    with torch.no_grad():
        torch.testing.assert_close(ran[1][1], other(first(pixels)))
    assert ran[2][1] is ran[0][1] and not first._forward_pre_hooks
