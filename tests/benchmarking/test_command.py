"""The benchmark's command line: what becomes a row, what a row is compared with, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    ConvNextImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ViTConfig,
    ViTForImageClassification,
    YolosConfig,
    YolosForObjectDetection,
)

from hf_effmodels import create_image_processor, create_model, list_models
from hf_effmodels.benchmarking import accuracy, command, workloads
from hf_effmodels.benchmarking.arguments import make_parser
from hf_effmodels.benchmarking.command import plan, references
from hf_effmodels.benchmarking.peers import PEERS, check, has_peer, model_type, timm_name
from hf_effmodels.benchmarking.places import count_place, side_of
from hf_effmodels.benchmarking.runs import Result, Row
from hf_effmodels.benchmarking.tables import machine
from hf_effmodels.cli import main
from hf_effmodels.edge import export
from hf_effmodels.quantization import CbqConfig, convert_to_bitlinear
from hf_effmodels.quantization.stored import count_parameters
from hf_effmodels.training.tasks.image_classification import data as pictures_of_classes


def rows_of(*arguments: str) -> list[list[Row]]:
    return plan(make_parser().parse_args(arguments))


def test_a_row_of_images_is_what_was_asked_for():
    (rows,) = rows_of(
        "--presets", "tinynet-c", "--batch", "4", "--threads", "2", "--model-config", '{"num_channels": 1}'
    )
    assert rows == [
        Row(
            preset="tinynet-c",
            peer="ours",
            backend="eager",
            batch=4,
            threads=2,
            mode="infer",
            folded=True,
            overrides='{"num_channels": 1}',
            image_size=184,
            channels=1,
        )
    ]
    ((row,),) = rows_of("--presets", "tinynet-c", "--image-size", "96", "--no-folded")
    assert (row.image_size, row.folded, row.batch, row.threads) == (96, False, 1, 1)
    ((row,),) = rows_of("--presets", "tinynet-c", "--mode", "train")
    assert (row.mode, row.folded) == ("train", False)
    ((row,),) = rows_of("--presets", "tinynet-c", "--model-config", '{"image_size": [64, 64]}')
    assert row.image_size == 64


def test_a_row_of_text_or_of_a_denoiser_is_what_was_asked_for():
    ((row,),) = rows_of("--presets", "pangu-pi-15m", "--mode", "generate", "--length", "9", "--new-tokens", "5")
    assert (row.mode, row.length, row.new_tokens, row.image_size, row.folded) == ("generate", 9, 5, None, False)
    ((row,),) = rows_of("--presets", "pangu-pi-15m")
    assert (row.length, row.new_tokens) == (256, 64)
    ((row,),) = rows_of("--presets", "sam-diffsr-x4")
    assert (row.image_size, row.length, row.folded) == (128, None, False)
    ((row,),) = rows_of("--presets", "sam-diffsr-x4", "--image-size", "64")
    assert row.image_size == 64


def test_every_batch_size_and_number_of_threads_is_a_group_of_all_presets_and_backends():
    groups = rows_of(
        *("--presets", "ghostnet-0.5x,vanillanet-5", "--against", "official-like", "--backends", "eager,onnx"),
        *("--batch", "1,8", "--threads", "1,2"),
    )
    assert [(rows[0].batch, rows[0].threads) for rows in groups] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    for rows in groups:
        assert {(row.batch, row.threads) for row in rows} == {(rows[0].batch, rows[0].threads)}
        assert [(row.preset, row.peer, row.backend) for row in rows] == [
            ("ghostnet-0.5x", "official-like", "eager"),
            ("ghostnet-0.5x", "ours", "eager"),
            ("ghostnet-0.5x", "ours", "onnx"),
            ("vanillanet-5", "ours", "eager"),
            ("vanillanet-5", "ours", "onnx"),
        ]


def test_what_is_named_twice_is_run_once():
    groups = rows_of(
        "--presets", "vanillanet-5, vanillanet-5", "--batch", "1,1", "--threads", "2,2", "--backends", "eager,eager"
    )
    assert [len(rows) for rows in groups] == [1]


def test_ratios_refer_to_the_row_that_is_named():
    (rows,) = rows_of(
        "--presets", "ghostnet-0.5x,ghostnet-1.0x", "--against", "official-like", "--backends", "eager,compile"
    )
    plain, eager, compiled = rows[:3]
    # By implementation and backend: each preset's own.
    named = references(rows, "ours compile")
    assert named[plain] is named[eager] is compiled and named[rows[3]] is rows[5]
    # By the whole name: one for all.
    assert {row.name for row in references(rows, "ghostnet-1.0x ours eager").values()} == {"ghostnet-1.0x ours eager"}
    assert set(references(rows, None)) == set(rows)
    with pytest.raises(ValueError, match="reference: got 'ours', accepted are ghostnet-0.5x official-like eager, "):
        references(rows, "ours")


def test_the_command_prints_and_measures_what_was_planned(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr(
        command, "measure", lambda rows, rounds, reference: seen.append((rows, rounds, reference)) or []
    )
    monkeypatch.setattr(command, "write", lambda results, folder: seen.append(folder) or [folder])
    arguments = ["benchmark", "vanillanet-5", "--backends", "eager,onnx", "--reference", "ours onnx", "--rounds", "7"]
    assert main([*arguments, "--batch", "1,2", "--output", str(tmp_path / "out")]) == 0
    (first, second), folder = seen[:2], seen[2]
    for rows, rounds, reference in (first, second):
        assert rounds == 7 and set(reference.values()) == {rows[1]}
    assert folder == tmp_path / "out" and folder.is_dir()
    said = capsys.readouterr().out
    assert said.endswith(f"times faster than vanillanet-5 ours onnx; infer, 7 rounds; {machine()['processor']}\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rounds", "0"], "--rounds: got 0"),
        (["--rounds", "-3"], "--rounds: got -3"),
        (["--rounds", "10000000"], "--rounds: got 10000000, accepted are whole numbers from 1 to 1000000"),
        (["--threads", "0,1"], r"--threads: got \[0, 1\]"),
        (["--threads", "100000"], r"--threads: got \[100000\], accepted are whole numbers from 1 to 1024"),
        (["--batch", ","], r"--batch: got \[\]"),
        (["--batch", "99999999"], r"--batch: got \[99999999\]"),
        (["--image-size", "0"], "--image-size: got 0"),
        (["--image-size", "-5"], "--image-size: got -5"),
        (["--length", "0"], "--length: got 0"),
        (["--new-tokens", "-1"], "--new-tokens: got -1"),
        (["--presets", ","], "--presets and --backends: got none"),
        (["--backends", ","], "--presets and --backends: got none"),
        (["--model-config", "[1]"], r"--model-config: got '\[1\]', accepted is a mapping"),
        (["--model-config", '{"nope": 1}'], "GhostNetConfig has no field 'nope'"),
        (
            ["--model-config", '{"width_multiplier": Infinity}'],
            "width_multiplier: got inf, accepted are finite numbers",
        ),
        (["--model-config", '{"stages": [[[3, NaN, 8, 0, 1]]]}'], "stages: got nan"),
        (["--model-config", '{"width_multiplier": "wide"}'], "Field 'width_multiplier' .* expected float, got str"),
        (["--model-config", '{"num_labels": 0}'], "num_labels: got 0"),
        (
            ["--presets", "sam-diffsr-x4", "--model-config", '{"nope": 1}'],
            "--model-config: got 'nope', accepted are encoder",
        ),
        (["--presets", "pangu-pi-15m", "--model-config", '{"num_attention_heads": 3}'], "head_dim: got 85"),
        (["--model-config", '{"image_size": [64, 96]}'], r"--model-config: got image_size \[64, 96\], .*squares"),
        (["--model-config", '{"image_size": 0}'], "--model-config: got image_size 0"),
        (["--output", f"{__file__}/below"], ".*test_command.py"),
        (["--presets", "nope"], "unknown preset 'nope'"),
        (["--against", "ours"], "--against: got 'ours', accepted are timm"),
        (["--against", "llama"], "--against: llama has no ghostnet-0.5x; it has peers of pangu_pi"),
        (["--backends", "onnx", "--mode", "train"], "--backends: got onnx, accepted is eager when mode is train"),
        (["--against", "bare-convolutions", "--mode", "infer,train"], "--mode: got infer,train, accepted is infer"),
        (["--output", __file__], "--output: .* is a file"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_started(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("something was started"))
    # The command line takes the last of an option.
    assert main(["benchmark", "--presets", "ghostnet-0.5x", *arguments]) == 2
    assert re.search(f"^hf-effmodels: error: {message}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"split.json": {}, "config.json": {"model_type": "resnet"}}, "holds a half of a split model; accepted are"),
        ({"halves.json": {}, "config.json": {"model_type": "resnet"}}, "holds exported halves, which edge_halves"),
        ({"model_index.json": {}}, "holds a pipeline of diffusers; accepted are models of transformers"),
        ({"config.json": {"model_type": "sam"}}, "is a sam, for which there is no AutoModelForImageClassification or"),
        (
            {"config.json": {"model_type": "bert", "architectures": ["BertForMaskedLM"]}},
            "is for fill-mask; accepted are models for image-classification, object-detection,",
        ),
    ],
)
def test_a_folder_that_is_not_measured_is_told_before_anything_is_loaded(
    files, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "plan", lambda *_: pytest.fail("something was loaded"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert main(["benchmark", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"hf-effmodels: error: --presets: {tmp_path} {message}")


@pytest.mark.parametrize("arguments", [["--rounds", "two"], ["--batch", "1,x"], ["--mode", "fly"], ["--batch"], []])
def test_arguments_of_another_kind_are_refused_by_the_parser(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", *(["--presets", "ghostnet-0.5x", *arguments] if arguments else [])])
    assert stopped.value.code == 2 and "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["info", "nope"], "unknown preset 'nope'"),
        (["info", ""], "unknown preset ''"),
        (["list", "--task", "nope"], "--task: got 'nope', accepted are 'image-classification'"),
        (["list", "*", "--task", ""], "--task: got ''"),
    ],
)
def test_list_and_info_say_what_is_wrong(arguments, message, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"hf-effmodels: error: {message}")


def test_list_and_info_print_what_is_known(capsys):
    assert main(["list", "ghostnetv3-0.5x"]) == 0
    head, line = (text.split() for text in capsys.readouterr().out.splitlines())
    assert line == ["ghostnetv3-0.5x", "3.40", "117.5", "2.84", "/", "49.6", "69.4", "GhostNetV3"]
    assert " ".join(head).startswith("preset params M MACs M folded top-1")
    assert main(["list", "sam*"]) == 0
    assert "PSNR 30.99 dB on Set5 (official repository)  SAM-DiffSR" in capsys.readouterr().out
    assert main(["list", "[", "--task", "text-generation"]) == 1
    assert capsys.readouterr().out == "no preset matches\n"
    assert main(["list", "--task", "text-classification", "--json"]) == 0
    assert [info["name"] for info in json.loads(capsys.readouterr().out)] == list_models(task="text-classification")
    assert main(["info", "parameternet-300m"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^top1 +79\.1$", shown, re.MULTILINE)
    assert "  top-1 79.1 % on ImageNet-1k (paper, pre-trained on ImageNet-22k); top-1 77.2 %" in shown


def test_peers_stand_beside_what_they_have_something_for():
    assert model_type("srdiff-x4") == "sam_diffsr" and model_type("pyramidvig-s") == "pyramidvig"
    assert has_peer("ours", "srdiff-x4") and has_peer("official-like", "srdiff-x4")
    assert has_peer("timm", "tinynet-e") and not has_peer("timm", "vig-s")
    assert has_peer("bare-convolutions", "gold-yolo-n") and not has_peer("bare-convolutions", "ghostnet-0.5x")
    check("llama", ["ghostnet-0.5x", "pangu-pi-15m"])
    assert timm_name("tinynet-e") == "tinynet_e" and timm_name("ghostnetv2-1.3x") == "ghostnetv2_130"
    with pytest.raises(ValueError, match="unknown preset 'nope'"):
        model_type("nope")
    with pytest.raises(ValueError, match="unknown preset 'nope'"):
        has_peer("llama", "nope")


def test_every_preset_can_be_timed_in_the_modes_of_its_task():
    for name in list_models():
        assert "infer" in workloads.modes(name) and "train" in workloads.modes(name)
        assert ("generate" in workloads.modes(name)) == (
            name in list_models("pangu*") + list_models("adem*") + list_models("delvm*") or "moe" in name
        )


def call_of(preset: str, overrides: dict | None = None, **row):
    torch.manual_seed(0)
    settings = {"preset": preset, "peer": "ours", "backend": "eager", "mode": "infer", "batch": 2, "channels": 3}
    settings |= {"overrides": overrides or {}, "image_size": 64, "length": 8, "new_tokens": 3, **row}
    model = PEERS["ours"].build(preset, settings.get("folded", False), settings["overrides"])
    return model, workloads.make_call(model, settings)


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 99,
}
SR = {"encoder": {"hidden_size": 8, "num_blocks": 3, "growth": 4}}
SR["unet"] = {"hidden_size": 8, "condition_channels": 8, "num_conditions": 1}


TINY_VIT = {
    "model_type": "vit",
    "image_size": 64,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
PRETRAINED = {"backbone_config": TINY_VIT, "image_size": 64, "decoder_hidden_size": 32}


@pytest.mark.parametrize("preset, overrides", [("fastmim-vit-base", PRETRAINED), ("gold-yolo-n", {})])
def test_detectors_and_masked_models_are_timed_in_both_modes(preset, overrides):
    model, call = call_of(preset, overrides)
    output = call()
    assert not output.logits.requires_grad and len(output.logits) == 2
    model, call = call_of(preset, overrides, mode="train")
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    call()
    assert sum(not torch.equal(before[name], p) for name, p in model.named_parameters() if name in before) > 5


def test_a_call_computes_a_whole_batch_without_gradients():
    _, call = call_of("ghostnet-0.5x", batch=3, folded=True)
    logits = call().logits
    assert logits.shape == (3, 1000) and not logits.requires_grad
    _, call = call_of("pangu-pi-15m", SMALL, length=9)
    output = call()
    assert output.logits.shape == (2, 1, 99) and output.past_key_values.get_seq_length() == 9
    _, call = call_of("sam-diffsr-x4", SR, batch=1, image_size=32)
    assert call().shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    "preset, overrides", [("ghostnet-0.5x", {}), ("pangu-pi-15m", SMALL), ("sam-diffsr-x4", SR)], ids=str
)
def test_a_training_step_changes_the_weights_and_starts_from_fresh_gradients(preset, overrides):
    model, call = call_of(preset, overrides, mode="train", image_size=32)
    assert model.training
    weight = next(p for name, p in model.named_parameters() if "weight" in name and p.dim() > 1 and p.requires_grad)
    before = weight.detach().clone()
    call()
    gradient = weight.grad.clone()
    assert not torch.equal(weight, before) and gradient.abs().sum() > 0
    call()
    assert weight.grad.norm() < 1.9 * gradient.norm(), "gradients of two steps are not added"


def test_generation_makes_the_tokens_that_were_asked_for():
    _, call = call_of("pangu-pi-15m", SMALL, mode="generate", length=5, new_tokens=4)
    assert call().shape == (2, 9)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A classifier of ours, one of transformers, a detector, a language model, and a program of the first."""
    folder = tmp_path_factory.mktemp("places")
    torch.manual_seed(0)
    ours = create_model("vanillanet-5", num_labels=3, hidden_sizes=[8, 12], strides=[2], image_size=32).eval()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    models = {
        "ours": ours,
        "vit": ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=3)),
        "yolos": YolosForObjectDetection(
            YolosConfig(**sizes, image_size=[32, 32], patch_size=16, num_detection_tokens=4, num_labels=2)
        ),
        "llama": LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    export(ours, folder / "program", "onnx")
    return folder


def test_folders_and_programs_are_rows_like_presets(places):
    names = [str(places / name) for name in ("ours", "vit", "program")]
    (rows,) = rows_of("--presets", ",".join(["ghostnet-0.5x", *names]), "--against", "official-like")
    assert [(row.preset, row.peer, row.backend, row.folded, row.image_size) for row in rows] == [
        ("ghostnet-0.5x", "official-like", "eager", True, 224),
        ("ghostnet-0.5x", "ours", "eager", True, 224),
        (names[0], "ours", "eager", True, 32),
        (names[1], "ours", "eager", False, 32),
        (names[2], "ours", "onnx", False, 32),
    ]
    ((row,),) = rows_of("--presets", names[0], "--no-folded", "--image-size", "48")
    assert (row.folded, row.image_size, row.channels) == (False, 48, 3)
    config = ResNetConfig(num_labels=3)  # it says no size
    assert side_of(str(places / "llama"), config) == 224
    ConvNextImageProcessorPil(size={"shortest_edge": 64}).save_pretrained(places / "llama")
    assert side_of(str(places / "llama"), config) == [64]
    ((row,),) = rows_of("--presets", str(places / "llama"), "--mode", "generate", "--length", "7")
    assert (row.mode, row.length, row.image_size) == ("generate", 7, None)
    spoken = places / "spoken"
    spoken.mkdir()
    shutil.copy(places / "llama" / "config.json", spoken)
    (spoken / "export.json").write_text('{"export_format": "openvino"}')
    prefill, generation = rows_of("--presets", str(spoken), "--mode", "infer,generate")
    for (row,), mode in ((prefill, "infer"), (generation, "generate")):
        assert (row.mode, row.backend, row.length, row.image_size) == (mode, "openvino", 256, None)
    (rows,) = rows_of("--presets", f"{places / 'llama'},{spoken}", "--backends", "eager,onnx,openvino")
    assert [row.backend for row in rows] == ["eager", "onnx", "openvino", "openvino"]
    ((row,),) = rows_of("--presets", str(spoken), "--backends", "eager,openvino-default")
    assert row.backend == "openvino-default", "its own, of those that were asked for"
    for arguments, message in (
        ((str(spoken), "--mode", "train"), "--mode: .* has no train; accepted are infer, generate"),
        ((names[2], "--mode", "train"), "--mode: .* has no train; accepted are infer"),
        ((names[2], "--backends", "openvino"), "--backends: got 'openvino', accepted are onnx"),
        ((names[0], "--model-config", '{"num_labels": 4}'), "--model-config: goes with presets"),
        ((names[0], "--against", "official-like"), "--against: official-like has no .*ours"),
    ):
        with pytest.raises(ValueError, match=message):
            rows_of("--presets", *arguments)
    (places / "empty").mkdir()
    with pytest.raises(OSError, match="--presets: '.*empty' cannot be found or"):
        rows_of("--presets", str(places / "empty"))


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(num_channels=1, architectures=["ResNetForImageClassification"]),
        ViTConfig(num_channels=4, image_size=32, architectures=["ViTForImageClassification"]),
    ],
    ids=["grey", "four"],
)
def test_a_folder_is_timed_on_images_of_its_own_channels(tmp_path, config):
    config.save_pretrained(tmp_path)
    ((row,),) = rows_of("--presets", str(tmp_path))
    assert row.channels == config.num_channels


def test_quantised_language_models_are_timed_as_they_were_saved(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    plain = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50)).bfloat16()
    plain.save_pretrained(tmp_path / "plain")
    packing = CbqConfig(method="rtn", bits=4, group_size=32)
    packed = LlamaForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=packing, dtype=torch.bfloat16)
    packed.save_pretrained(tmp_path / "packed")
    name = str(tmp_path / "packed")
    model, call = call_of(name, mode="generate", length=5)
    assert call().shape == (2, 8) and model.dtype == torch.bfloat16
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "PackedLinear"
    assert count_parameters(model) == plain.num_parameters()
    convert_to_bitlinear(plain).save_pretrained(tmp_path / "ternary")
    ((row,),) = rows_of("--presets", str(tmp_path / "ternary"), "--mode", "train")
    assert row.mode == "train"  # its weights are there
    for arguments, message in (
        (("--mode", "train"), "--mode: .*packed has no train; accepted are infer, generate"),
        (("--backends", "onnx"), "--backends: got 'onnx', accepted are eager"),
    ):
        with pytest.raises(ValueError, match=message):
            rows_of("--presets", name, *arguments)


@torch.no_grad()
def test_what_is_timed_of_a_folder_is_its_model(places):
    pixels = []
    for name, folded in (("ours", True), ("vit", False)):
        model, call = call_of(str(places / name), folded=folded, image_size=32, batch=3)
        plain = AutoModelForImageClassification.from_pretrained(places / name)
        model.register_forward_pre_hook(lambda module, args, kwargs: pixels.append(args[0]), with_kwargs=True)
        torch.testing.assert_close(call().logits, plain(pixels[-1]).logits, rtol=1e-4, atol=1e-4)
        assert getattr(model.config, "reparameterized", False) == folded
    row = {"backend": "onnx", "image_size": 32, "threads": 1}
    model, call = call_of(str(places / "program"), **row)
    assert call().logits.shape == (2, 3) and sum(p.numel() for p in model.parameters()) > 100
    _, call = call_of(str(places / "yolos"), image_size=32)
    assert call().pred_boxes.shape == (2, 4, 4)
    _, call = call_of(str(places / "llama"), mode="generate", length=5)
    assert call().shape == (2, 8)
    counted = count_place(str(places / "ours"), True, 32)
    _, folded = count_place(str(places / "ours"), False, 32), call_of(str(places / "ours"), folded=True)[0]
    assert counted.parameters == sum(p.numel() for p in folded.parameters()) and counted.macs > 10**4


def test_accuracy_stands_beside_the_times_of_classifiers_with_weights(places, tmp_path, monkeypatch, capsys):
    """Seven of twelve pictures lie in the folder of the class that the network gives them; in another order."""
    processor = create_image_processor("vanillanet-5", image_size=32)
    model = AutoModelForImageClassification.from_pretrained(places / "ours")
    model.config.id2label = {0: "dog", 1: "cat", 2: "bird"}
    model.save_pretrained(tmp_path / "ours")
    export(model.eval(), tmp_path / "program", "onnx", processor=processor)
    processor.save_pretrained(tmp_path / "ours")
    noise = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in noise]
    with torch.no_grad():
        found = model(processor(pictures, return_tensors="pt").pixel_values).logits.argmax(-1).tolist()
    for number, (picture, one) in enumerate(zip(pictures, found, strict=True)):
        folder = tmp_path / "photos" / "test" / ("dog", "cat", "bird")[(one + (number >= 7)) % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    monkeypatch.setattr(accuracy, "_BATCH", 5)

    def measured(rows, rounds, reference):
        numbers = dict.fromkeys("median quartile_1 quartile_3 cpu ratio cpu_ratio peak_mb".split(), 1.0)
        return [Result(row, 1, allocated_mb=None, parameters=1, macs=None, **numbers) for row in rows]

    monkeypatch.setattr(command, "measure", measured)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = [*(str(tmp_path / name) for name in ("ours", "program")), str(places / "yolos"), "ghostnet-0.5x"]
    argv = ["benchmark", ",".join(names), "--dataset", "imagefolder", "--data-dir", str(tmp_path / "photos")]
    assert main(argv) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()[:6]
    assert head.endswith("| top-1 % |")
    assert [line.split("|")[-2].strip() for line in lines] == ["58.33", "58.33", "", ""]
    for arguments, message in (
        ([str(places / "yolos"), "--dataset", "digits"], "--dataset: accuracy is of image classifiers with weights"),
        ([names[0], "--dataset", "digits"], "the data set's classes .* are not the model's .*ours"),
        ([names[0], "--max-eval-samples", "4"], "--max_eval_samples goes with --dataset"),
        ([*argv[1:], "--max-eval-samples", "0"], "--max_eval_samples: got 0"),
        ([*argv[1:], "--eval-split", "val"], "--eval_split: there is no 'val'"),
    ):
        assert main(["benchmark", *arguments]) == 2
        assert re.search(f"hf-effmodels: error: {message}", capsys.readouterr().err), message


def test_accuracy_is_of_the_pictures_that_a_training_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = dict(enumerate(("bird", "cat", "dog")))
    config = ResNetConfig(id2label=names, architectures=["ResNetForImageClassification"])
    config.save_pretrained(tmp_path / "out")
    for number in range(12):
        folder = tmp_path / "photos" / "train" / names[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    monkeypatch.setattr(accuracy, "_top1", lambda name, pictures: len(pictures))
    argv = ["--presets", str(tmp_path / "out"), "--dataset", "imagefolder", "--data-dir", str(tmp_path / "photos")]
    for extra, number in ([], 12), (["--eval-holdout", "3"], 3), (["--eval_fraction", "0.5"], 6):
        found = accuracy.accuracies(make_parser().parse_args([*argv, *extra]))
        assert found == {str(tmp_path / "out"): number}


@pytest.mark.parametrize(
    "name, said, expected",
    [
        ("dataset_config", "small", "small"),
        ("dataset_revision", "v2", "v2"),
        ("data_dir", "photos", "photos"),
        ("data_files", "{test: a.zip}", {"test": "a.zip"}),
        ("eval_split", "dev", "dev"),
        ("eval_fraction", "0.25", 0.25),
        ("eval_holdout", "7", 7),
        ("label_column", "kind", "kind"),
        ("label_mapping", "{tabby: cat}", {"tabby": "cat"}),
        ("max_eval_samples", "3", 3),
    ],
)
def test_what_is_said_of_the_pictures_of_an_accuracy_is_what_they_are_read_by(name, said, expected, monkeypatch):
    """And is refused where no accuracy is asked for."""
    words = [f"--{name.replace('_', '-')}", said]
    with pytest.raises(ValueError, match=f"^--{name} goes with --dataset"):
        accuracy.accuracies(make_parser().parse_args(["--presets", "a", *words]))
    read = []
    monkeypatch.setattr(accuracy, "is_place", lambda name: True)
    monkeypatch.setattr(accuracy, "task_of_place", lambda name: "image-classification")
    monkeypatch.setattr(accuracy, "config_of", lambda name: None)
    monkeypatch.setattr(accuracy, "_as_numbered_by", lambda config, name, pictures: pictures)
    monkeypatch.setattr(accuracy, "_top1", lambda name, pictures: 0.5)
    monkeypatch.setattr(pictures_of_classes, "load_evaluation_data", read.append)
    arguments = make_parser().parse_args(["--presets", "a", "--dataset", "org/photos", *words])
    assert accuracy.accuracies(arguments) == {"a": 0.5}
    (given,) = read
    assert given.dataset == "org/photos" and getattr(given, name) == expected


def test_layers_are_rows_of_their_own_sizes_in_each_mode():
    inferring, training = rows_of(
        *("--presets", "adder-64x256x3136", "--against", "cdist", "--mode", "infer,train", "--batch", "2")
    )
    assert [(row.peer, row.mode) for row in inferring] == [("cdist", "infer"), ("ours", "infer")]
    assert [(row.mode, row.image_size, row.channels, row.batch) for row in training] == [("train", 56, 256, 2)] * 2
    for arguments, message in (
        (("binary-128x28", "--mode", "infer,train"), "--mode: binary-128x28 has no train; accepted are infer"),
        (("binary-128x28", "--image-size", "32"), "--image-size: go with networks; binary-128x28 has its sizes"),
        (("binary-128x28", "--backends", "onnx"), "--backends: got 'onnx', accepted are eager"),
        (("binary-128x28", "--against", "cdist"), "--against: cdist has no binary-128x28; it has peers of addernet"),
    ):
        with pytest.raises(ValueError, match=message):
            rows_of("--presets", *arguments)


def test_a_layer_is_timed_on_all_its_positions_with_the_gradients_of_weights_and_inputs():
    _, call = call_of("adder-64x576x512", image_size=8, channels=64, batch=1)
    assert call().shape == (8, 64, 8, 8)
    model, call = call_of("adder-64x576x512", mode="train", image_size=8, channels=64, batch=1)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for _ in range(2):
        call()
        # The paper's norm of a layer's gradient, 0.2·√(number of weights): of one backward pass, nothing added up.
        assert model[0].weight.grad.norm().item() == pytest.approx(0.2 * (64 * 576) ** 0.5, rel=1e-4)
    assert seen[-1].grad.abs().sum() > 0


def test_a_preset_whose_task_has_no_workload_is_refused(monkeypatch):
    monkeypatch.delitem(workloads.WORKLOADS, "image-classification")
    with pytest.raises(
        ValueError, match="presets: vig-s is for image-classification; accepted are presets for text-gen"
    ):
        rows_of("--presets", "vig-s")
