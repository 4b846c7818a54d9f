"""What is measured is what was asked for: classes by their names, inputs as a network has them, precisions, targets,
numbers of nothing, and every row in every file."""

import csv
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, ResNetConfig, ViTConfig, ViTForImageClassification

from hf_effmodels import create_model, get_config
from hf_effmodels.benchmarking import (
    accuracy,
    binary_layers,
    command,
    distilled,
    peers,
    places,
    tables,
    without_data,
    workloads,
)
from hf_effmodels.benchmarking.arguments import make_parser
from hf_effmodels.benchmarking.bare_convolutions import BareConvolutions
from hf_effmodels.benchmarking.command import plan
from hf_effmodels.benchmarking.llava import LlavaOfOneImage
from hf_effmodels.benchmarking.official_denoiser import DenoisingStep
from hf_effmodels.benchmarking.visual_tokens import VisualTokenModel
from hf_effmodels.cli import main
from hf_effmodels.modeling.layers.binary import BinaryConv2d
from hf_effmodels.training.tasks.image_classification import data
from hf_effmodels.training.tasks.image_classification.data import LabelledImages

from .test_calls import result

# accuracy


def pictures(labels: list[int], names: list[str] | None) -> LabelledImages:
    labels = np.array(labels)
    return LabelledImages(
        images=[None] * len(labels), rows=np.arange(len(labels)), split="test", labels=labels, names=names,
        numbers=np.unique(labels),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "own", "expected"),
    [
        (["bird", "cat", "dog"], ["dog", "cat", "bird"], [2, 1, 0, 2]),
        (["bird", "cat", "dog"], ["cat", "dog", "bird"], [2, 0, 1, 2]),
        (["bird", "cat", "dog"], ["bird", "fish", "dog", "cat"], [0, 3, 2, 0]),
        (None, ["dog", "cat", "bird"], [0, 1, 2, 0]),
    ],
    ids=["turned", "moved", "of more", "numbers"],
)
def test_a_picture_is_of_the_number_that_its_class_has_in_the_model(names, own, expected):
    config = ResNetConfig(id2label=dict(enumerate(own)))
    given = pictures([0, 1, 2, 0], names)
    found = accuracy._as_numbered_by(config, "net", given)
    assert found.labels.tolist() == expected and given.labels.tolist() == [0, 1, 2, 0]


def test_models_of_other_orders_are_measured_on_the_same_data_set_each_by_its_own(monkeypatch):
    """The first by the data set's order turned, the second by the data set's own: not by that of the first."""
    configs = {"a/first": ["dog", "cat", "bird"], "a/second": ["bird", "cat", "dog"]}
    monkeypatch.setattr(accuracy, "task_of_place", lambda name: "image-classification")
    monkeypatch.setattr(accuracy, "config_of", lambda name: ResNetConfig(id2label=dict(enumerate(configs[name]))))
    monkeypatch.setattr(data, "load_evaluation_data", lambda arguments: pictures([0, 1, 2, 0], ["bird", "cat", "dog"]))
    monkeypatch.setattr(accuracy, "_top1", lambda name, own: own.labels.tolist())
    arguments = make_parser().parse_args(["--presets", "a/first,a/second,vanillanet-5", "--dataset", "photos"])
    assert accuracy.accuracies(arguments) == {"a/first": [2, 1, 0, 2], "a/second": [0, 1, 2, 0]}


@pytest.mark.parametrize(("labels", "refused"), [([0, 2], False), ([0, 3], True)])
def test_numbers_of_classes_that_a_model_has_not_are_refused_with_its_name(labels, refused):
    config = ResNetConfig(num_labels=3)
    if not refused:
        assert accuracy._as_numbered_by(config, "net", pictures(labels, None)).labels.tolist() == labels
        return
    with pytest.raises(ValueError, match=r" \(net\)$"):
        accuracy._as_numbered_by(config, "net", pictures(labels, None))


@pytest.mark.parametrize(
    ("option", "said", "value"),
    [
        ("dataset_config", "plain", "plain"),
        ("dataset_revision", "main", "main"),
        ("data_files", "*.png", "*.png"),
        ("data_dir", "photos", "photos"),
        ("eval_split", "other", "other"),
        ("eval_fraction", "0.25", 0.25),
        ("eval_holdout", "7", 7),
        ("label_column", "kind", "kind"),
        ("label_mapping", "{tabby: cat}", {"tabby": "cat"}),
        ("max_eval_samples", "9", 9),
    ],
)
def test_each_option_of_the_data_set_is_that_of_an_evaluation(option, said, value, monkeypatch):
    assert set(accuracy.OPTIONS) >= {option}
    seen = []

    def load(arguments):
        seen.append(arguments)
        raise ValueError("enough")

    monkeypatch.setattr(accuracy, "task_of_place", lambda name: "image-classification")
    monkeypatch.setattr(data, "load_evaluation_data", load)
    argv = ["--presets", "a/network", "--dataset", "imagefolder", f"--{option}", said]
    with pytest.raises(ValueError, match="^enough$"):
        accuracy.accuracies(make_parser().parse_args(argv))
    (arguments,) = seen
    assert getattr(arguments, option) == value and arguments.dataset == "imagefolder"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pictures_are_given_in_the_precision_of_the_network(dtype, monkeypatch):
    class Pictures(list):
        labels = np.array([1, 1, 0])

        def read(self, number, channels):
            return torch.full((channels, 2, 2), float(number))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2).to(dtype)
            self.config, self.dtype = types.SimpleNamespace(num_channels=3), dtype

        def forward(self, pixel_values):
            assert not torch.is_grad_enabled()
            self.linear(pixel_values.mean((2, 3)))
            return types.SimpleNamespace(logits=F.one_hot((pixel_values[:, 0, 0, 0] > 0).long(), 2))

    monkeypatch.setattr(accuracy, "load_network", lambda source, auto, device: Network())
    monkeypatch.setattr(accuracy, "load_part", lambda *_: None)
    monkeypatch.setattr(
        "hf_effmodels.training.tasks.image_classification.transforms.EvaluationTransform",
        lambda part: lambda image: image,
    )
    # Found are 0, 1, 1.
    assert accuracy._top1("net", Pictures(range(3))) == pytest.approx(1 / 3)


# layers by themselves


@pytest.mark.parametrize("kind", ["bare", "binary"])
def test_a_layer_by_itself_has_the_input_it_had_also_where_the_network_goes_on_in_place(kind):
    class InPlace(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, pixels):
            hidden = pixels + 1
            output = self.layer(hidden)
            hidden.zero_()
            return output.relu_() + hidden.mean()

    layer = nn.Conv2d(3, 4, 3, padding=1) if kind == "bare" else BinaryConv2d(3, 4, 3, padding=1)
    model = InPlace(layer)
    alone = BareConvolutions(model) if kind == "bare" else binary_layers.Layers(model, lambda layer: layer)
    pixels = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = layer(pixels + 1)
        for _ in range(2):
            torch.testing.assert_close(alone(pixels), expected)
    assert len(alone.calls) == 1 and not layer._forward_pre_hooks
    assert alone.calls[0][1].is_contiguous(memory_format=torch.channels_last), "in the layout that it came in"


# students


@pytest.mark.parametrize(("classes", "kept"), [(6, 3), (4, 4)])
def test_what_is_stored_of_a_teacher_are_probabilities_the_likeliest_first(classes, kept, tmp_path):
    labels = distilled._stored(tmp_path / "labels", classes, 5, kept)
    numbers = torch.arange(5)
    known = labels.logits(0, numbers, numbers).exp()
    assert known.shape == (5, classes) and labels.num_classes == classes
    torch.testing.assert_close(known.sum(1), torch.ones(5), rtol=0, atol=2e-3)
    for row in labels.table:
        stored = row["probabilities"].astype(float)
        assert len(stored) == len({*row["ids"].tolist()}) == kept and (np.diff(stored) <= 0).all()
        assert (stored > 0).all() and stored.sum() <= 1.002
        # The likeliest are more than their share of all.
        assert stored.sum() > kept / classes - 2e-3
    assert known.std(1).min() > 0


@pytest.mark.parametrize(("channels", "labels", "size"), [(1, 7, 32), (3, 4, 48)])
def test_the_teacher_takes_what_its_student_takes_and_knows_its_classes(channels, labels, size, monkeypatch):
    small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
    monkeypatch.setattr(distilled, "_TEACHER", small)
    settings = {"hidden_sizes": [8, 12], "strides": [2], "num_channels": channels, "num_labels": labels}
    model = peers.PEERS["distilled-kd"].build("vanillanet-5", False, {**settings, "image_size": size})
    teacher = model._teacher[0].model
    config = teacher.config
    assert (config.num_channels, config.num_labels, config.image_size) == (channels, labels, size)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    outputs = model.train()(torch.randn(2, channels, size, size))
    assert outputs.logits.shape == (2, labels) and set(outputs.distillation) == {"kd"}


# masked images

VIT = {
    "model_type": "vit", "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 32, "image_size": 32, "patch_size": 16,
}  # fmt: skip
LOCAL = {"backbone_config": VIT, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "taps": [0, 1, 2, 3]}


def test_each_scale_of_localmim_has_its_own_target_at_hand():
    settings = LOCAL | {"backbone_config": VIT | {"image_size": 64}}
    models = []
    for peer in ("target-at-hand", "ours"):
        torch.manual_seed(0)
        models.append(peers.PEERS[peer].build("localmim-vit-base", False, settings).eval())
    kept, ours = models
    pixels, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    with torch.no_grad():
        for _ in range(2):
            found, expected = kept(pixels, noise=noise), ours(pixels, noise=noise)
            assert [one.shape for one in found.targets] == [one.shape for one in expected.targets]
            torch.testing.assert_close(found.losses, expected.losses)
        # Another batch size is another target; of the first size that of the first images stays.
        assert kept(pixels[:1], noise=noise[:1]).targets[0].shape[0] == 1
        torch.testing.assert_close(kept(pixels + 1, noise=noise).targets, expected.targets)


def test_a_masked_autoencoder_has_the_sizes_of_the_preset():
    settings = LOCAL | {"mask_ratio": 0.5, "backbone_config": VIT | {"num_channels": 1, "num_hidden_layers": 5}}
    config = peers.PEERS["mae"].build("localmim-vit-base", False, settings).config
    sizes = {"hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"image_size": 32, "patch_size": 16, "num_channels": 1, "mask_ratio": 0.5, "norm_pix_loss": True}
    assert {name: getattr(config, name) for name in sizes} == sizes


@pytest.mark.parametrize(("peer", "side"), [("simmim", 64), ("simmim-224", 224)])
def test_simmim_is_over_the_presets_encoder_at_its_size_or_at_the_published_one(peer, side):
    vit = VIT | {"image_size": 64, "num_channels": 2}
    model = peers.PEERS[peer].build("fastmim-vit-base", False, {"backbone_config": vit})
    model = getattr(model, "model", model)
    encoder = model.config.backbone_config
    assert (encoder.image_size, encoder.num_channels, encoder.hidden_size) == (side, 2, 24)


# a step of a denoiser


def test_a_condition_is_projected_once_where_nothing_is_learned_and_in_every_step_of_a_training():
    settings = {"encoder": {"hidden_size": 8, "num_blocks": 3, "growth": 4}}
    settings["unet"] = {"hidden_size": 8, "condition_channels": 8, "num_conditions": 1}
    unet = create_model("sam-diffsr-x4", **settings).unet
    step, projected = DenoisingStep(unet), []
    unet.condition_proj.register_forward_hook(lambda *_: projected.append(1))
    given = torch.randn(1, 3, 32, 32), torch.tensor([9]), [torch.randn(1, 8, 8, 8)]
    for expected in (1, 1, 1):
        with torch.no_grad():
            step(*given)
        assert len(projected) == expected
    for expected in (2, 3):
        step(*given).sum().backward()
        assert len(projected) == expected and unet.condition_proj.weight.grad.abs().sum() > 0
        unet.zero_grad()


# folders


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_folder_is_timed_in_float32_whatever_it_is_stored_in(dtype, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=3)).to(dtype)
    model.save_pretrained(tmp_path)
    found = places.load(str(tmp_path), False)
    assert {p.dtype for p in found.parameters()} == {torch.float32} and not found.training
    torch.testing.assert_close(found.classifier.weight, model.classifier.weight.float())


def test_a_folder_in_half_precision_is_counted_as_one_in_float32(tmp_path):
    """A ViT by hand: 4 patches of 3·16·16 numbers, 5 tokens, one layer of width 16, 3 classes."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=3)).bfloat16()
    model.save_pretrained(tmp_path)
    weights = 4 * 3 * 16 * 16 * 16 + 5 * 6 * 16 * 16 + 16 * 3
    assert places.count_place(str(tmp_path), False, 32).macs == weights + 2 * 5 * 5 * 16


@pytest.mark.parametrize(
    ("config", "foldable"),
    [
        ({"reparameterized": False}, True),
        ({"reparameterized": True}, False),
        ({}, False),
        ({"reparameterized": False, "quantization_config": {"quant_method": "bitlinear"}}, False),
    ],
)
def test_what_folds_are_networks_with_something_left_to_fold(config, foldable):
    assert places.is_foldable(types.SimpleNamespace(**config)) is foldable


@pytest.mark.parametrize(
    ("options", "folded"),
    [([], True), (["--folded"], True), (["--no-folded"], False), (["--mode", "train"], False),
     (["--mode", "train", "--no-folded"], False)],
    ids=["not said", "folded", "not folded", "trained", "trained and not folded"],
)  # fmt: skip
@pytest.mark.parametrize("place", [False, True])
def test_what_is_timed_is_folded_but_for_training_or_where_it_is_not_wanted(options, folded, place, monkeypatch):
    if place:
        config = get_config("vanillanet-5")
        monkeypatch.setattr(command, "is_place", lambda name: True)
        monkeypatch.setattr(command, "config_of", lambda name: config)
        monkeypatch.setattr(command, "_check_preset", lambda *_: None)
        monkeypatch.setattr(command, "task_of", lambda name: "image-classification")
        monkeypatch.setattr(command, "program_format", lambda name: None)
    argv = ["--presets", "a/folder" if place else "vanillanet-5", *options]
    ((row,),) = plan(make_parser().parse_args(argv))
    assert (row.folded, row.image_size, row.channels) == (folded, 224, 3)


def test_a_folder_for_images_that_are_not_square_is_timed_on_those_that_are_asked_for(tmp_path):
    ViTConfig(image_size=[32, 48], architectures=["ViTForImageClassification"]).save_pretrained(tmp_path)
    ((row,),) = plan(make_parser().parse_args(["--presets", str(tmp_path), "--image-size", "32"]))
    assert row.image_size == 32
    with pytest.raises(ValueError, match=r"got image_size \[32, 48\], images are squares here; see --image-size"):
        plan(make_parser().parse_args(["--presets", str(tmp_path)]))


# tables and files


@pytest.mark.parametrize(
    ("field", "column", "nothing", "none"),
    [
        ("accuracy", "top-1 %", 0.0, "0.00"),
        ("accuracy", "top-1 %", 1.0, "100.00"),
        ("macs", "MACs M", 0, "0.0"),
        ("allocated_mb", "call MB", 0.0, "0.0"),
        ("cpu", "CPU ms", 0.0, "0.00"),
        ("parameters", "params M", 0, "0.000"),
    ],
)
def test_a_number_of_nothing_is_a_number(field, column, nothing, none):
    timed = replace(result("a"), **{field: nothing})
    names, line = tables.table([timed])
    assert dict(zip(names, line, strict=True))[column] == none


@pytest.mark.draws
def test_every_file_has_a_line_for_every_row_of_every_batch_mode_and_number_of_threads(tmp_path):
    first = result("a")
    asked = [{"batch": 1}, {"batch": 8}, {"threads": 2}, {"mode": "train"}, {"peer": "timm"}, {"backend": "onnx"}]
    timed = [
        replace(first, row=replace(first.row, **each), median=float(n), quartile_1=0.5, quartile_3=7.0)
        for n, each in enumerate(asked, 1)
    ]
    timed[1] = replace(timed[1], accuracy=0.25)
    tables.write(timed, tmp_path)
    written = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    assert [one["median"] for one in written["results"]] == [1, 2, 3, 4, 5, 6]
    for one, each in zip(written["results"], asked, strict=True):
        assert each.items() <= one["row"].items()
    assert [one["accuracy"] for one in written["results"]] == [None, 0.25, None, None, None, None]
    assert written["machine"] == tables.machine()
    with open(tmp_path / "benchmark.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["median ms"] for line in lines] == [f"{n}.00" for n in range(1, 7)]
    assert [line["top-1 %"] for line in lines] == ["", "25.00", "", "", "", ""]
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8") == tables.markdown(timed) + "\n"
    assert len(tables.markdown(timed).splitlines()) == 2 + 6


def test_files_of_an_earlier_benchmark_are_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(command, "measure", lambda rows, *_: measured.append(rows) or [])
    monkeypatch.setattr(command, "write", lambda results, folder: [])
    (tmp_path / "notes.txt").write_text("mine")
    argv = ["benchmark", "vanillanet-5", "--output", str(tmp_path)]
    assert main(argv) == 0 and len(measured) == 1, "other files are in nobody's way"
    for name in ("benchmark.md", "benchmark.csv", "benchmark.json", "benchmark.png"):
        (tmp_path / name).write_text("earlier")
        assert main(argv) == 2 and len(measured) == 1
        assert f"holds {name}; --overwrite replaces them" in capsys.readouterr().err
        assert main([*argv, "--overwrite"]) == 0 and measured.pop()
        (tmp_path / name).unlink()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_picture_of_an_earlier_benchmark_does_not_stay_beside_new_tables(tmp_path, monkeypatch):
    for name in ("benchmark.png", "benchmark.md", "mine.png"):
        (tmp_path / name).write_text("earlier")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = tables.write([result("a")], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", *(path.name for path in written)}
    assert "benchmark.png" not in {path.name for path in written}
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8").startswith("| preset |")


@pytest.mark.parametrize(("mode", "tokens"), [("infer", 30), ("train", 30), ("generate", 50)])
def test_a_language_model_reads_its_prompt_in_a_training_step_too(mode, tokens):
    first = result("a")
    row = replace(first.row, mode=mode, batch=3, length=30, new_tokens=50)
    assert replace(first, row=row, median=20.0).tokens_per_second == pytest.approx(3 * tokens / 0.020)


def test_accuracies_stand_beside_our_rows_of_every_batch(monkeypatch, capsys):
    monkeypatch.setattr(command, "accuracies", lambda arguments: {"vanillanet-5": 0.5})
    monkeypatch.setattr(
        command, "measure", lambda rows, rounds, reference: [replace(result("x"), row=row) for row in rows]
    )
    argv = ["benchmark", "vanillanet-5,vanillanet-6", "--against", "bare-convolutions", "--batch", "1,4"]
    assert main(argv) == 0
    lines = [[part.strip() for part in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    found = [(line[1], line[2], line[4], line[-2]) for line in lines if line[0] == "" and len(line) > 9][2:]
    assert found == [
        (preset, peer, batch, "50.00" if (preset, peer) == ("vanillanet-5", "ours") else "")
        for batch in "14"
        for preset in ("vanillanet-5", "vanillanet-6")
        for peer in ("bare-convolutions", "ours")
    ]


# rows and what they run on


def test_a_row_of_two_towers_has_the_size_and_the_channels_of_its_images_and_the_length_of_its_texts():
    ((row,),) = plan(make_parser().parse_args(["--presets", "light_clip-resnet-18", "--length", "33"]))
    assert (row.image_size, row.channels, row.length, row.new_tokens, row.folded) == (224, 3, 33, None, True)
    argv = ["--presets", "light_clip-resnet-18", "--mode", "train", "--image-size", "96"]
    ((row,),) = plan(make_parser().parse_args(argv))
    assert (row.image_size, row.length, row.folded) == (96, 256, False)
    ((row,),) = plan(make_parser().parse_args(["--presets", "vanillanet-5", "--length", "33"]))
    assert row.length is None


@pytest.mark.parametrize(
    ("task", "quantizer", "expected"),
    [
        ("image-classification", None, ("eager", "compile", "onnx", "openvino", "openvino-default")),
        ("image-segmentation", None, ("eager", "onnx", "openvino", "openvino-default")),
        ("object-detection", None, ("eager", "onnx", "openvino", "openvino-default")),
        ("text-generation", None, ("eager", "onnx", "openvino", "openvino-default")),
        ("text-generation", "cbq", ("eager",)),
        ("mask-generation", None, ("eager",)),
        ("zero-shot-image-classification", None, ("eager",)),
    ],
)
def test_a_model_is_timed_on_the_backends_that_its_task_has(task, quantizer, expected, monkeypatch):
    monkeypatch.setattr(workloads, "program_format", lambda name: None)
    monkeypatch.setattr(workloads, "task_of", lambda name: task)
    monkeypatch.setattr(workloads, "config_of", lambda name: None)
    monkeypatch.setattr(workloads, "quantizer_of", lambda config: quantizer)
    assert workloads.backends("a/network") == expected


@pytest.mark.parametrize(
    ("format", "task", "modes", "backends"),
    [
        ("onnx", "text-generation", ("infer", "generate"), ("onnx",)),
        ("openvino", "object-detection", ("infer",), ("openvino", "openvino-default")),
    ],
)
def test_a_program_is_timed_in_its_own_modes_on_its_own_backends(format, task, modes, backends, monkeypatch):
    monkeypatch.setattr(workloads, "program_format", lambda name: format)
    monkeypatch.setattr(workloads, "task_of", lambda name: task)
    assert (workloads.modes("edge"), workloads.backends("edge")) == (modes, backends)


def test_peers_alone_are_timed_where_no_backend_of_ours_is_asked_for():
    argv = ["--presets", "vanillanet-5,gold-yolo-n", "--against", "bare-convolutions", "--backends", ","]
    (rows,) = plan(make_parser().parse_args(argv))
    assert [(row.preset, row.peer) for row in rows] == [
        ("vanillanet-5", "bare-convolutions"), ("gold-yolo-n", "bare-convolutions")
    ]  # fmt: skip


def test_a_preset_without_the_peer_is_compared_with_itself():
    argv = ["--presets", "ghostnet-0.5x,vanillanet-5", "--against", "official-like", "--backends", "eager,onnx"]
    (rows,) = plan(make_parser().parse_args(argv))
    found = command.references(rows, None)
    assert [(found[row].preset, found[row].peer, found[row].backend) for row in rows] == [
        *[("ghostnet-0.5x", "official-like", "eager")] * 3, *[("vanillanet-5", "ours", "eager")] * 2
    ]  # fmt: skip
    # Named by implementation and backend, where a preset has no such row the first that has is it.
    named = command.references(rows, "official-like eager")
    assert {row.preset: named[row].preset for row in rows} == dict.fromkeys(
        ("ghostnet-0.5x", "vanillanet-5"), rows[0].preset
    )


def test_parts_of_a_pipeline_are_changed_by_their_names():
    changed = {"unet": {"hidden_size": 8}, "legacy_256": False}
    argv = ["--presets", "sam-diffsr-x4", "--model-config", json.dumps(changed)]
    ((row,),) = plan(make_parser().parse_args(argv))
    assert json.loads(row.overrides) == changed


@pytest.mark.parametrize(
    ("preset", "teacher"),
    [
        ("mhresnet8x18", "resnet8x34"), ("mhresnet18", "resnet34-224"), ("mhwrn4x161", "wrn4x402"),
        ("mhwrn4x162", "wrn4x402"), ("another", "resnet8x18"),
    ],
)  # fmt: skip
def test_a_student_of_several_heads_has_its_published_teacher_for_each(preset, teacher, monkeypatch):
    overrides = {"hidden_sizes": [4, 8, 16], "depths": [1, 1], "num_heads": 3, "num_labels": 5, "image_size": 8}
    student, asked = create_model("mhwrn4x161", **overrides), []
    monkeypatch.setattr(without_data, "create_model", lambda name, **fields: asked.append((name, fields)) or student)
    monkeypatch.setattr(without_data, "create_image_processor", lambda name, image_size: (name, image_size))
    monkeypatch.setattr(without_data, "input_of", lambda made, channels: types.SimpleNamespace(size=8))
    width = student.cdfkd_mfs.num_features
    for own, weight in ((width, 0.2), (width + 1, 0.0)):
        monkeypatch.setattr(
            without_data, "Teacher", lambda *given, own=own: types.SimpleNamespace(name=given[0], width=own)
        )
        asked.clear()
        turn = without_data.Turn(preset, overrides, whole=True)
        assert asked == [(preset, overrides), *[(teacher, {"num_labels": 5, "num_channels": 3})] * 3]
        # Features are compared where they are of one width.
        assert turn._arguments.feature_weight == weight
        assert turn._arguments.teachers == [f"{teacher} {number}" for number in range(3)]


# language models that see

TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 31}


def test_visual_tokens_stand_before_the_text_and_only_the_text_is_learned():
    class Vision(nn.Module):
        def __init__(self):
            super().__init__()
            self.language_model = nn.Linear(1, 1)

        def encode_images(self, pixels):
            return types.SimpleNamespace(image_embeds=pixels)

    text, whole = LlamaConfig(**TEXT), nn.Module()
    whole.model, whole.config = Vision(), types.SimpleNamespace(text_config=text)
    whole.model.config = types.SimpleNamespace(num_vision_tokens=3)
    model = VisualTokenModel(whole).eval()
    assert not hasattr(model.vision, "language_model")
    assert not any(p.requires_grad for p in model.language_model.parameters())
    images = torch.randn(2, 3, 16)
    ids = torch.tensor([[1, 31, 5, 6, 7], [1, 31, 8, 9, 3]])  # 31 is the image's, beyond the words
    labels = ids.masked_fill(ids == 31, -100)
    found = model(ids, images, labels=labels)
    words = model.language_model.get_input_embeddings()(ids.clamp(max=30))
    logits = model.language_model(inputs_embeds=torch.cat([images, words], 1)).logits
    torch.testing.assert_close(found.logits, logits)
    # Each place says the next word: the last of the image the first of the text.
    expected = F.cross_entropy(logits[:, 2:-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(found.loss, expected)
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    written = model.generate(ids, images, attention_mask=torch.ones_like(ids), **settings)
    assert written.shape == (2, 3) and torch.equal(written[:, 0], logits[:, -1].argmax(-1))


def test_llavas_image_is_as_many_tokens_in_the_place_of_one_and_is_not_learned():
    vision = types.SimpleNamespace(
        image_size=28, patch_size=14, to_dict=lambda: {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
    )  # fmt: skip
    config = types.SimpleNamespace(text_config=LlamaConfig(**TEXT), vision_config=vision, image_token_id=77)
    model = LlavaOfOneImage(config)
    assert model.count == 4 and model.config.text_config.vocab_size == 32 and model.config.image_token_id == 31
    ids = torch.tensor([[1, 5, 77, 6], [1, 7, 77, 8]])
    whole = [[1, 5, 31, 31, 31, 31, 6], [1, 7, 31, 31, 31, 31, 8]]
    assert model.expand(ids, 31).tolist() == whole
    frozen = {name for name, p in model.model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.model.named_parameters() if "vision_tower" in name} != set()
    seen = []
    model.model.forward = lambda **given: seen.append(given)
    model.model.generate = lambda **given: seen.append(given)
    model(ids, torch.zeros(2, 3, 28, 28), labels=ids)
    model(ids, torch.zeros(2, 3, 28, 28))
    model.generate(ids, torch.zeros(2, 3, 28, 28), attention_mask=torch.ones_like(ids), max_new_tokens=5)
    assert seen[0]["labels"].tolist() == [[-100 if word == 31 else word for word in row] for row in whole]
    assert seen[1]["labels"] is None and all(each["input_ids"].tolist() == whole for each in seen)
    assert seen[2]["attention_mask"].tolist() == [[1] * 7] * 2 and seen[2]["max_new_tokens"] == 5


# peers


def test_the_llama_beside_pangu_pi_has_every_size_of_it():
    sizes = {
        **TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-3,
        "max_position_embeddings": 77, "tie_word_embeddings": True, "rope_parameters": {
            "rope_type": "default", "rope_theta": 123.0,
        },
    }  # fmt: skip
    model = peers.PEERS["llama"].build("pangu-pi-15m", False, sizes)
    config = model.config
    assert isinstance(model, LlamaForCausalLM) and not model.training
    assert {name: getattr(config, name) for name in sizes} == sizes


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("tinynet-a", True), ("ghostnet-1.3x", True), ("ghostnetv3-1.6x", True), ("vanillanet-5", False)],
)
def test_timm_has_whole_names_alone(preset, expected, monkeypatch):
    assert peers.has_peer("timm", preset) is expected
    # A preset whose name only begins as one that timm has.
    monkeypatch.setattr(peers, "model_type", lambda name: "tinynet")
    assert not peers.has_peer("timm", "tinynet-a-large") and not peers.has_peer("timm", "my-tinynet-a")
