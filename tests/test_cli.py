"""What a user may get wrong on the command line ends in one line that says so, never in a traceback."""

import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

import hf_effmodels
from hf_effmodels import _places, cli
from hf_effmodels._files import whole_folder
from hf_effmodels.edge_detection import Suppression
from hf_effmodels.hub import export
from hf_effmodels.registry import ARCHITECTURES

from .modeling.tiny import tiny_config


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    architecture = ARCHITECTURES["ghostnetv3"]
    model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture))
    processor = hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_size=64)
    return export(model, processor, tmp_path_factory.mktemp("good") / "model", license="mit")


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must be refused; what it said."""
    monkeypatch.setenv(cli.TRACEBACK, "1")

    def call(*argv) -> str:
        assert cli.main([str(part) for part in argv]) == 2, argv
        out, err = capsys.readouterr()
        said = err.splitlines()[-1]
        assert out == "" and said.startswith("hf-effmodels: error: ") and len(said) > 30, argv
        return said

    return call


CONFIGS = [b"", b"[]", b"null", b"1", b"{", b"\xff\xfe", b"{}", b'{"auto_map": 3}', b'{"auto_map": {"AutoConfig": 3}}']
FIELDS = [{"model_type": [1]}, {"model_type": None}, {"model_type": "ghostnet"}, {"architectures": None}]
FIELDS += [{"architectures": [3]}, {"architectures": ["GhostNetV3Config"]}, {"image_size": "x"}, {"stages": None}]
FIELDS += [{"num_channels": -1}, {"id2label": "x"}, {"id2label": [1]}, {"id2label": {"a": "b"}}, {"dtype": "nope"}]
FIELDS += [{"auto_map": {}}, {"reparameterized": "maybe"}, {"head_size": 7}, {"out_features": ["x"]}]


@pytest.mark.parametrize("content", [*CONFIGS, b"[" * 100000, *FIELDS], ids=lambda c: str(c)[:30])
def test_a_folder_with_a_wrong_configuration_is_not_published(good, refused, tmp_path, content):
    folder = shutil.copytree(good, tmp_path / "model")
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / "config.json").read_text()) | content).encode()
    (folder / "config.json").write_bytes(content)
    assert str(folder) in refused("publish", folder, "org/net", "--token", "hf_x")


LICENCES = ["[mit, apache-2.0]", "{a: b}", "3", "unknown", "MIT", "mit\\nlicense_name: [a]", "other"]
LICENCES += ["!!python/object:x {}"]
CARDS = [f"---\nlicense: {licence}\n---\n".replace("\\n", "\n") for licence in LICENCES]
CARDS += ["", "---", "---\n---\n", "no metadata", "---\n- a\n---\n", "---\n3\n---\n", "---\n: : :\n  - x\n---\n"]
CARDS += ["---\nlicense: mit\nmodel-index: 3\n---\n", "---\nlicense: mit\ntags: 3\n---\n", b"\xff\xfe\x00"]
CARDS += ["---\nlicense: other\nlicense_name: 3\nlicense_link: []\n---\n", "---\nlicense: null\n---\n"]


@pytest.mark.parametrize("text", CARDS, ids=range(len(CARDS)))
def test_a_folder_with_a_wrong_card_is_not_published(good, refused, tmp_path, text):
    folder = shutil.copytree(good, tmp_path / "model")
    (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused("publish", folder, "org/net", "--token", "hf_x")
    assert "licen" in said or "README.md" in said


INDICES = ["", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": null}}', '{"weight_map": {"a": "../x"}}']


@pytest.mark.parametrize("index", INDICES)
def test_a_folder_with_a_wrong_index_of_weights_is_not_published(good, refused, tmp_path, index):
    folder = shutil.copytree(good, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refused("publish", folder, "org/net", "--token", "hf_x")


def test_a_folder_with_other_weights_is_not_published(good, refused, tmp_path):
    folder = shutil.copytree(good, tmp_path / "model")
    for content, message in (
        (b"", "truncated or damaged"),
        (b"x", "truncated or damaged"),
        (b"\xff" * 100, "truncated or damaged"),
        (b"\x08" + b"\0" * 7 + b"{}      ", "are not those of the model in its config.json: missing"),
    ):
        (folder / "model.safetensors").write_bytes(content)
        assert message in refused("publish", folder, "org/net", "--token", "hf_x")
    index = {"_class_name": ["pipeline_sam_diffsr", "X"]}
    for wrong in ({"_class_name": []}, {"_class_name": [{}, 1]}, {"unet": [["a"], {}]}, {"unet": [1, 2]}, {"unet": 3}):
        (folder / "model_index.json").write_text(json.dumps(index | wrong))
        refused("publish", folder, "org/net", "--token", "hf_x", "--license", "mit")


def test_wrong_arguments_are_named(good, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(3)}, "a.pth")
    convert = ("convert", "ghostnetv3-0.5x", "a.pth", "out")
    for number in ("0", "-1", "1000000000"):
        assert f"--num-labels: got {number}, accepted are 1 to" in refused(*convert, "--num-labels", number)
    wrong = {"": "is no JSON file", "{}": "holds no list of names", "[]": "holds no list of names"}
    wrong |= {"[1]": "holds no list of names", '["a", "a"]': "has names that stand twice: 'a'."}
    wrong |= {json.dumps([*"dcbaeabcd"]): "has names that stand twice: 'a', 'b', 'c'."}
    for text, message in wrong.items():
        Path("labels.json").write_text(text)
        assert f"--labels: labels.json {message}" in refused(*convert, "--labels", "labels.json")
    Path("labels.json").write_text('["a", "b"]')
    said = refused(*convert, "--labels", "labels.json", "--num-labels", "3")
    assert "--num-labels: got 3, but --labels has 2 names" in said
    assert "entry: a.pth has no entry 'x'" in refused(*convert, "--entry", "x")
    # Where nothing could be written, and a licence that is none, are told before the file is read.
    assert f"FOLDER: {Path('a.pth').resolve()} is a file" in refused("convert", "ghostnetv3-0.5x", "nowhere", "a.pth")
    Path("taken").mkdir()
    Path("taken", "thesis.tex").touch()
    for preset in ("ghostnetv3-0.5x", "sam-diffsr-x4"):
        assert "thesis.tex" in refused("convert", preset, "nowhere", "taken")
    assert "--license: got 'mitt'" in refused("convert", "ghostnetv3-0.5x", "nowhere", "out", "--license", "mitt")
    for number in ("-1", "1.5", "4294967296", "99999999999999999999999"):
        for command in (("chat", good), ("offload",)):
            said = refused(*command, "--seed", number)
            assert f"--seed: got {number}, accepted are whole numbers from 0 to 4294967295" in said
    assert "is for image-classification, not for text-generation" in refused("chat", good)
    for command in (("split", good, "out", "--at", "x"), ("measure-split", good)):
        assert "--bits: got 9, accepted are whole numbers from 1 to 8" in refused(*command, "--bits", "9")
    assert "is the folder of MODEL itself, and would be both; name another" in refused(
        "split", good, good, "--at", "x"
    )
    codec = ("train-codec", good, good, "--at", "x", "--dataset", "digits")
    parts = ("decompose", good, good, "--parts", "2", "--macs", "0.6", "--dataset", "digits")
    for command in (codec, parts):
        assert f"--output: {good} is the folder of MODEL itself, and would be both" in refused(*command)
    smaller = ("prune", good, f"{good}/smaller", "--target-parameters", "0.5")
    assert f"OUT: {good}/smaller lies in the folder {good} of MODEL; name one beside it" in refused(*smaller)
    said = refused("predict", "a" * 300, "a.pth")
    assert "MODEL: there is no folder or file 'aaa" in said
    assert "has no field 'text_model'" in refused(*convert, "--text-model", "x")
    assert "there is no file" in refused("convert", "ghostnetv3-0.5x", "nowhere", "out")
    tokenizer = ("convert", "delvm-300m", good, "out", "--image-tokenizer")
    assert "--image-tokenizer: there is no file nowhere.pth" in refused(*tokenizer, "nowhere.pth")
    assert "--image-size: got 0" in refused("export", good, "out", "--format", "onnx", "--image-size", "0")
    for small in (("export", good, "out", "--format", "onnx"), ("split", good, "out", "--at", "stages.0")):
        assert "--image-size: got 4×4; the images are too small" in refused(*small, "--image-size", "4")
    said = refused("export", good, "out", "--format", "onnx", "--checkpoint", "a.pth")
    assert f"--checkpoint: got 'a.pth', but {good} is a folder, which has its weights" in said
    assert "unknown preset 'ghostnetv3-9x'; nearest: ghostnet" in refused(
        "export", "ghostnetv3-9x", "out", "--format", "onnx", "--checkpoint", "a.pth"
    )
    for command in (("prune", good, "a.pth"), ("quantize", good, "a.pth")):
        assert "error: OUT: a.pth is a file; accepted is a folder" in refused(*command)
    said = refused("export", "sam-diffsr-x4", "out", "--format", "onnx")
    assert "is neither a classifier of images nor a detector nor a segmenter" in said
    said = refused("export", "pangu-pi-1b-pro", "out", "--format", "onnx")
    assert "MODEL: the weights of pangu-pi-1b-pro are random; train it first and name its folder" in said
    Path("wrong").mkdir()
    Path("wrong", "config.json").write_text("null")
    said = refused("export", "wrong", "out", "--format", "onnx")
    assert f"MODEL: wrong{os.sep}config.json holds no mapping of settings." in said
    assert "format: got 'x'" in refused("export", good, "out", "--format", "x")
    assert "task: got 'x'" in refused("list", "--task", "x")
    assert not Path("out").exists()


#: Commands that read a model, without what comes beside it.
READERS = [
    ("predict", "MODEL", "photo.png"),
    ("chat", "MODEL"),
    ("export", "MODEL", "out", "--format", "onnx"),
    ("benchmark", "MODEL"),
    ("probe", "MODEL", "--dataset", "digits", "--output", "out"),
    ("prune", "MODEL", "out", "--target-parameters", "0.5", "--dataset", "pydoc_topics"),
    ("quantize", "MODEL", "out", "--bits", "4", "--dataset", "pydoc_topics"),
    ("tiny-lm", "inherit", "--model", "MODEL", "--like", "MODEL", "--output", "out"),
    ("tiny-lm", "compress-tokenizer", "--tokenizer", "MODEL", "--dataset", "pydoc_topics", "--output", "out"),
    ("split", "MODEL", "out", "--at", "x"),
    ("measure-split", "MODEL"),
    ("serve-tail", "MODEL"),
    ("decompose", "MODEL", "out", "--dataset", "digits", "--parts", "2", "--macs", "0.6"),
    ("assemble", "out", "MODEL", "MODEL"),
    ("evaluate", "--model", "MODEL", "--dataset", "digits"),
    ("demo", "MODEL"),
]


@pytest.mark.parametrize("argv", READERS, ids=lambda argv: argv[0])
@pytest.mark.parametrize("name", ["outpts/digits", "digitz"])
def test_a_mistyped_model_is_answered_at_once_without_network(argv, name, monkeypatch, tmp_path, capsys):
    asked = []

    def unknown(*address, **_):
        asked.append(address)
        raise OSError(-3, "Temporary failure in name resolution")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it is tried again"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    words = [name if word == "MODEL" else word for word in argv]
    try:
        code = cli.main(words)
    except SystemExit as stopped:  # what runs as a program
        code = stopped.code
    said = capsys.readouterr().err
    assert code == 2 and name in said and ("no such folder" in said or "unknown preset" in said) and len(asked) <= 1, (
        said
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", READERS, ids=lambda argv: argv[0])
def test_a_file_that_is_no_model_is_told_without_asking_the_hub(argv, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"")
    (tmp_path / "t.txt").write_text("no model")
    monkeypatch.setattr("socket.getaddrinfo", lambda *address, **_: pytest.fail("the Hub is asked"))
    try:
        code = cli.main(["t.txt" if word == "MODEL" else word for word in argv])
    except SystemExit as stopped:  # what runs as a program
        code = stopped.code
    said = capsys.readouterr().err
    told = "unknown preset 't.txt'" if argv[0] == "benchmark" else "t.txt is a file; accepted are a folder and an id"
    assert code == 2 and told in said, said


@pytest.mark.parametrize(("patience", "answers"), [(0.9, True), (0.2, False)])
def test_a_slow_hub_is_waited_for_aloud(monkeypatch, caplog, patience, answers):
    def slow(*_, **__):
        time.sleep(0.5)
        return nullcontext()

    monkeypatch.setattr("socket.create_connection", slow)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_places, "PATIENCE", patience)
    monkeypatch.setattr(_places, "SILENCE", 0.1)
    monkeypatch.setattr(_places, "getproxies", dict)
    with nullcontext() if answers else pytest.raises(OSError, match="there is no way to .* .tried for 0.2 s"):
        _places.check_place("--model", "a/b")
    assert f"waiting for https://huggingface.co, {patience} s at most" in caplog.text


def test_a_hub_that_says_nothing_is_waited_for_as_long_as_its_client_would(monkeypatch, tmp_path):
    assert _places.PATIENCE == constants.HF_HUB_ETAG_TIMEOUT
    waits = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: waits.wait(20) and [])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_places, "PATIENCE", 0.2)
    monkeypatch.setattr(_places, "getproxies", dict)
    before = time.monotonic()
    with pytest.raises(OSError, match="--model: 'a/b' cannot be found or reached: there is no such folder"):
        _places.check_place("--model", "a/b")
    waits.set()
    assert time.monotonic() - before < 2
    # What has been downloaded before is the client's to find.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--a--b").mkdir()
    _places.check_place("--model", "a/b")


def test_what_nobody_foresaw_is_one_line_too_but_a_run_says_where(monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    monkeypatch.setitem(cli.PASSED_ON, "tiny-lm", fail)
    monkeypatch.setitem(cli.PASSED_ON, "train", fail)
    assert cli.main(["tiny-lm"]) == 2
    said = "ZeroDivisionError: division by zero (an input was not foreseen; HF_EFFMODELS_TRACEBACK=1 shows where)"
    assert capsys.readouterr().err == f"hf-effmodels: error: {said}\n"
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["tiny-lm"])


def test_a_mistyped_command_is_answered_over_all_commands(refused):
    for typed, meant in (("trian", "train"), ("lst", "list"), ("benchmrk", "benchmark"), ("quantise", "quantize")):
        assert f"there is no command '{typed}'; nearest: {meant}." in refused(typed)
    assert "there is no command 'xyzzy'; hf-effmodels -h lists them." in refused("xyzzy")
    for step in ("compress-tokenizer", "suggest-config", "inherit", "select-rounds", "train-rounds", "scale-lr"):
        assert f"it is a step of another: hf-effmodels tiny-lm {step}." in refused(step)
        assert "the following arguments are required" in refused("tiny-lm", step)
    assert "unknown argument '--taks'; nearest: --task" in refused("list", "--taks", "x")
    assert "one value too many: 'b'" in refused("info", "a", "b")
    assert "there is no step 'inhert'; nearest: inherit." in refused("tiny-lm", "inhert")


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_shows_every_command_with_an_example_that_its_parser_takes(argv, capsys):
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    _, commands = cli._parser()
    for name in [*commands, *cli.PASSED_ON]:
        (example,) = re.findall(rf"^  {name} .*\n +\$ hf-effmodels ({name} .*)$", said, re.MULTILINE)
        if name in commands:
            assert commands[name].parse_known_args(shlex.split(example)[1:])[1] == []


def test_what_a_function_says_is_said_in_the_words_of_the_command(good, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(good, tmp_path / "model")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("license: mit\n", ""))
    said = refused("publish", folder, "org/net", "--token", "hf_x")
    assert "--license: none is given" in said and "such as --license apache-2.0" in said and "license=" not in said
    assert "FOLDER: nowhere is not a folder" in refused("publish", "nowhere", "org/net", "--token", "hf_x")
    said = refused("publish", good, "org/net", "--token", "hf_x", "--revision", "x", "--create-pr")
    assert said.endswith("--revision: got 'x' with --create-pr, but pull requests are opened against main")
    assert "--format: got 'x', accepted are" in refused("export", good, "out", "--format", "x")
    assert f"FOLDER: {good} is not empty" in refused("export", good, good, "--format", "onnx")
    assert "MODEL: there is no folder or file './nowhere'" in refused("export", "./nowhere", "out", "--format", "onnx")
    assert "--task: got 'x'" in refused("list", "--task", "x")


def test_every_option_of_publish_and_export_reaches_the_function(good, monkeypatch, capsys, refused, tmp_path):
    asked = []

    def instead(name, result):
        def call(*given, **options):
            asked.append((name, given, options))
            return result

        return call

    commit = type("Commit", (), {"pr_url": None, "commit_url": "the commit"})
    monkeypatch.setattr("hf_effmodels.hub.publish", instead("publish", commit))
    monkeypatch.setattr("hf_effmodels.hub.space.publish_space", instead("space", commit))
    own = ["--license", "mit", "--private", "--token", "hf_x"]
    assert cli.main(["publish", str(good), "org/net", *own, "--revision", "dev", "--refresh-code"]) == 0
    (_, given, options), how = asked.pop(), {"token": "hf_x", "private": True}
    assert given == (str(good), "org/net") and options == {
        **how, "license": "mit", "revision": "dev", "create_pr": False, "refresh_code": True
    }  # fmt: skip
    assert cli.main(["publish", str(good), "org/net", *own, "--space"]) == 0
    assert asked == [("publish", (str(good), "org/net"), {**how, "license": "mit"}), ("space", ("org/net",), how)]
    asked.clear()
    assert capsys.readouterr().out == "the commit\n" * 2
    assert "--space: does not go with --create-pr" in refused("publish", good, "org/net", "--space", "--create-pr")
    stock = tmp_path / "stock"
    stock.mkdir()
    (stock / "config.json").write_text('{"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}')
    said = "--space: {} holds no model of this package, and apps are for these."
    assert said.format(stock) in refused("publish", stock, "org/net", *own, "--space") and not asked

    monkeypatch.setattr("hf_effmodels.edge.export", instead("export", {"done": "yes"}))
    monkeypatch.setattr("hf_effmodels.edge_pictures.FEWEST", 0)
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    size = ["--image-size", "48", "--precision", "fp16", "--calibrate", "photos", "--min-agreement", "0.7"]
    assert cli.main(["export", str(good), "out", "--format", "onnx", *size]) == 0
    ((_, given, options),) = asked
    assert given == (str(good), "out", "onnx")
    assert options == {
        "processor": None, "image_size": 48, "precision": "fp16", "calibration": "photos", "min_agreement": 0.7
    }  # fmt: skip
    asked.clear()
    monkeypatch.setattr("hf_effmodels.edge_detection.export_detector", instead("detector", {"done": "yes"}))
    monkeypatch.setattr(cli, "_check_suppresses", lambda *_: None)  # it is a classifier
    limits = ["--nms", "--threshold", "0.1", "--nms-threshold", "0.2", "--max-detections", "7", "--image-size", "48"]
    assert cli.main(["export", str(good), "out", "--format", "onnx", *limits]) == 0
    ((_, given, options),) = asked
    chosen = options["suppression"]
    assert (chosen.threshold, chosen.nms_threshold, chosen.max_detections) == (0.1, 0.2, 7)
    assert options["image_size"] == (48, 48) and given[1:] == ("out", "onnx")
    capsys.readouterr()
    assert "unknown argument '--tas'; nearest: --task" in refused("list", "--tas", "x")  # no half of an option


class Loaded:
    """In the place of a model from an official checkpoint."""

    def eval(self):
        return self


CHECKPOINT = ["--checkpoint", "a.pth"]
#: The package has a function of its name.
CONVERT = importlib.import_module("hf_effmodels.hub.convert")


@pytest.mark.parametrize(
    "preset, function, more, expected",
    [
        (
            "light_clip-ghostnetv3-1.0x",
            "edge_two_towers.export_two_towers",
            ["--image-size", "64"],
            {"image_size": 64},
        ),
        (
            "pangu-pi-1b",
            "edge_language.export_language_model",
            ["--precision", "float16", "--calibrate", "x.txt", "--min-agreement", "0.6"],
            {"precision": "float16", "calibration": "x.txt", "min_agreement": 0.6},
        ),
        ("pangu-pi-1b", "edge_language.export_language_model", [], {"precision": "float32", "min_agreement": None}),
        ("tinysam", "edge_masks.export_promptable", [], {"processor": "of tinysam"}),
        (
            "ghostnet-0.5x",
            "edge.export",
            ["--precision", "fp16"],
            {"processor": "of ghostnet-0.5x", "precision": "fp16"},
        ),
        (
            "gold-yolo-n",
            "edge_detection.export_detector",
            ["--nms"],
            {"processor": "of gold-yolo-n", "image_size": None, "suppression": Suppression()},
        ),
    ],
)
def test_an_official_checkpoint_is_exported_as_what_its_preset_is(
    preset, function, more, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(3)}, "a.pth")
    loaded, asked = Loaded(), []
    monkeypatch.setattr(CONVERT, "load_checkpoint", lambda *given: (loaded, asked.append(given)))
    monkeypatch.setattr("hf_effmodels.edge.load_source", lambda *given: given)
    monkeypatch.setattr(cli, "create_image_processor", lambda name: f"of {name}")

    def instead(*given, **options):
        asked.append((given, options))
        return {"done": "yes"}

    monkeypatch.setattr(f"hf_effmodels.{function}", instead)
    assert cli.main(["export", preset, "out", "--format", "openvino", *CHECKPOINT, *more]) == 0
    assert capsys.readouterr().out == "done  yes\n"
    (read, ((source, *rest), options)) = asked
    assert read == (preset, "a.pth") and source is loaded and rest == ["out", "openvino"]
    assert expected.items() <= options.items()
    if "min_agreement" not in expected:
        assert "min_agreement" not in options


@pytest.mark.parametrize(
    "preset, argv, said",
    [
        *(
            (preset, ["--threshold", "0.5", "--nms"], f"--nms: got True, which {what} are not exported with")
            for preset, what in (
                ("light_clip-ghostnetv3-1.0x", "two towers"),
                ("pangu-pi-1b", "language models"),
                ("tinysam", "models that find masks by prompts"),
            )
        ),
        (
            "light_clip-ghostnetv3-1.0x",
            ["--calibrate", "x"],
            "--calibrate: got 'x', which two towers are not exported",
        ),
        ("tinysam", ["--precision", "float16"], "--precision: got 'float16', which models that find masks by prompts"),
        (
            "tinysam",
            ["--image-size", "64"],
            "--image-size: got 64, but models that find masks by prompts have one size",
        ),
        ("pangu-pi-1b", ["--image-size", "64"], "--image-size: got 64, but language models take no images"),
        (
            "ghostnet-0.5x",
            ["--precision", "int8"],
            "--calibrate: int8 is calibrated on pictures; give a folder of them",
        ),
        ("ghostnet-0.5x", ["--min-agreement", "0.5"], "--min-agreement goes with --calibrate"),
        (
            "gold-yolo-n",
            ["--nms", "--precision", "float16"],
            "--precision: got 'float16', accepted with --nms is float32",
        ),
        ("gold-yolo-n", ["--nms", "--calibrate", "x"], "--precision: got 'float32', accepted with --nms is float32"),
        ("gold-yolo-n", ["--max-detections", "3"], "--max-detections goes with --nms"),
        ("gold-yolo-n", ["--nms-threshold", "0.3"], "--nms-threshold goes with --nms"),
        ("tinysam", [], "MODEL: the weights of tinysam are random; train it first and name its folder"),
        ("light_clip-ghostnetv3-1.0x", [], "MODEL: the weights of light_clip-ghostnetv3-1.0x are random"),
    ],
)
def test_options_that_an_export_of_a_kind_does_not_have_are_named(preset, argv, said, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused("export", preset, "out", "--format", "onnx", *argv)
    assert not (tmp_path / "out").exists()


def test_random_weights_are_exported_with_a_word(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        "hf_effmodels.edge.export", lambda *given, **options: asked.append((given, options)) or {"a": "b"}
    )
    monkeypatch.setattr(cli, "create_model", lambda name: f"random {name}")
    monkeypatch.setattr(cli, "create_image_processor", lambda name: f"of {name}")
    assert cli.main(["export", "ghostnet-0.5x", "out", "--format", "onnx"]) == 0
    assert "the preset's weights are random; --checkpoint, or a folder of `download`, gives" in capsys.readouterr().err
    ((given, options),) = asked
    assert given == ("random ghostnet-0.5x", "out", "onnx") and options["processor"] == "of ghostnet-0.5x"
    assert options["calibration"] is None and options["precision"] == "float32" and options["image_size"] is None


def test_every_option_of_convert_and_download_reaches_the_function(monkeypatch, capsys, tmp_path, refused):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(3)}, "a.pth")
    Path("labels.json").write_text('["dog", "ant", "cat"]')
    asked = []
    monkeypatch.setattr(CONVERT, "convert", lambda *given, **options: asked.append((given, options)) or {})
    monkeypatch.setattr(cli, "_show_facts", str)
    own = [
        "--entry",
        "ema",
        "--license",
        "mit",
        "--labels",
        "labels.json",
        "--num-labels",
        "3",
        "--allow-broken-weights",
    ]
    assert cli.main(["convert", "ghostnet-0.5x", "a.pth", "out", *own]) == 0
    assert cli.main(["convert", "adem_vl-7b-caption", "a.pth", "out", "--text-model", "t", "--vision-model", "v"]) == 0
    assert cli.main(["convert", "delvm-300m", ".", "out", "--image-tokenizer", "."]) == 0
    plain = {"entry": None, "license": None, "allow_broken_weights": False}
    assert asked == [
        (
            ("ghostnet-0.5x", "a.pth", "out"),
            {
                "entry": "ema",
                "license": "mit",
                "allow_broken_weights": True,
                "num_labels": 3,
                "id2label": {0: "dog", 1: "ant", 2: "cat"},
            },
        ),
        (("adem_vl-7b-caption", "a.pth", "out"), {**plain, "text_model": "t", "vision_model": "v"}),
        (("delvm-300m", ".", "out"), {**plain, "image_tokenizer": "."}),
    ]
    asked.clear()
    for number in ("1", "1000000"):
        assert cli.main(["convert", "ghostnet-0.5x", "a.pth", "out", "--num-labels", number]) == 0
    assert [options["num_labels"] for _, options in asked] == [1, 1_000_000]
    capsys.readouterr()
    assert "--num-labels: got 1000001, accepted are 1 to 1000000." in refused(
        "convert", "ghostnet-0.5x", "a.pth", "out", "--num-labels", "1000001"
    )
    capsys.readouterr()
    assert "--labels: nowhere.json cannot be read (No such file or directory)" in refused(
        "convert", "ghostnet-0.5x", "a.pth", "out", "--labels", "nowhere.json"
    )
    asked.clear()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "config.json").write_text("{}")
    monkeypatch.setattr(
        "hf_effmodels.hub.pretrained", lambda *given, **options: asked.append((given, options)) or kept
    )
    capsys.readouterr()
    argv = ["download", "ghostnetv3-1.0x", "copy", "--source", "timm", "--token", "hf_x", "--json"]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"preset": "ghostnetv3-1.0x", "folder": "copy", "license": "apache-2.0"}
    assert (
        "hf-effmodels: licence of the weights: apache-2.0 (" in err and (tmp_path / "copy" / "config.json").is_file()
    )
    assert cli.main(["download", "ghostnetv3-1.0x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(kept)
    assert asked == [
        (("ghostnetv3-1.0x", "timm"), {"token": "hf_x"}),
        (("ghostnetv3-1.0x", None), {"token": None}),
    ]
    assert "--source: got 'github', accepted are official and timm" in refused(
        "download", "ghostnetv3-1.0x", "--source", "github"
    )
    assert "FOLDER: " in refused("download", "ghostnetv3-1.0x", "copy")
    assert len(asked) == 2, "nothing is fetched for a folder that holds something"


def test_whoever_downloads_knows_the_licence_before_anything_is_fetched(monkeypatch, capsys, tmp_path):
    told = []

    def fetch(preset, source, *, token):
        told.append(capsys.readouterr().err)
        raise OSError("the line broke")

    monkeypatch.setattr("hf_effmodels.hub.pretrained", fetch)
    facts = {"weights_license": None, "weights_license_note": None}
    for known, said in (
        ({}, "not stated"),
        ({"weights_license": "mit"}, "mit"),
        ({"weights_license": "mit", "weights_license_note": "as they say"}, "mit (as they say)"),
        ({"weights_license_note": "nobody says"}, "not stated (nobody says)"),
    ):
        monkeypatch.setattr(cli, "model_info", lambda name, known=known: SimpleNamespace(**facts | known))
        assert cli.main(["download", "ghostnetv3-1.0x", str(tmp_path / "out")]) == 2
        assert told.pop() == f"hf-effmodels: licence of the weights: {said}\n"
        assert "the line broke" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_conversion_writes_over_an_export_of_ours_and_a_pipeline_into_new_folders_alone(
    good, monkeypatch, tmp_path, refused, capsys
):
    """Names and files are looked at in this order: the licence, the folder, the checkpoint, the image tokenizer."""
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(3)}, "a.pth")
    shutil.copytree(good, "ours")
    for name in ("theirs", "parts"):
        Path(name).mkdir()
        Path(name, "notes.txt").write_text("mine")
    Path("no.pth").write_bytes(b"nothing")
    asked = []
    monkeypatch.setattr(CONVERT, "convert", lambda *given, **options: asked.append(given[2]) or {})
    monkeypatch.setattr(cli, "_show_facts", str)
    assert cli.main(["convert", "ghostnet-0.5x", "a.pth", "ours"]) == 0 and asked == ["ours"]
    capsys.readouterr()
    plain, pipeline = ["convert", "ghostnet-0.5x"], ["convert", "delvm-300m"]
    for argv, said in (
        ([*pipeline, "parts", "theirs"], "FOLDER: theirs is not empty: it holds notes.txt"),
        ([*pipeline, "a.pth", "ours"], "FOLDER: ours is not empty: it holds"),
        ([*pipeline, "no.pth", "new"], "CHECKPOINT: no.pth"),
        ([*pipeline, "a.pth", "new", "--image-tokenizer", "no.pth"], "--image-tokenizer: no.pth"),
        ([*pipeline, "parts", "new", "--image-tokenizer", "no.pth"], "--image-tokenizer: no.pth"),
        ([*plain, "no.pth", "a.pth"], "a.pth is a file"),
        ([*plain, "no.pth", "a.pth", "--license", "Mine"], "--license: got 'Mine'"),
        ([*plain, "parts", "new"], "CHECKPOINT: "),
    ):
        assert said in refused(*argv), argv
    assert asked == ["ours"]


@pytest.mark.parametrize(
    "argv, missing",
    [
        (["export", "ghostnet-0.5x", "out"], "--format"),
        (["export", "ghostnet-0.5x", "--format", "onnx"], "FOLDER"),
        (["convert", "ghostnet-0.5x", "a.pth"], "FOLDER"),
        (["info"], "PRESET"),
        (["download"], "PRESET"),
        (["publish"], "namespace/name"),
    ],
)
def test_what_has_to_be_given_is_asked_for(argv, missing, refused):
    assert f"the following arguments are required: {missing}" in refused(*argv)


def test_a_dry_run_shows_what_would_be_published_and_what_not_without_a_token(good, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hf_effmodels._token.get_token", lambda: pytest.fail("a token has been asked for"))
    folder = shutil.copytree(good, tmp_path / "model")
    (folder / "key.pem").write_bytes(b"secret")
    (folder / "NOTICE").write_bytes(bytes(1234))
    assert cli.main(["publish", str(folder), "org/net", "--dry-run", "--revision", "dev"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "would be uploaded to org/net, branch dev; nothing has been sent:"
    sent, left = lines[: (end := lines.index("left out, as the model does not need it:"))], lines[end + 1 :]
    assert left == ["  key.pem"] and ["NOTICE", "1,234", "bytes"] in [line.split() for line in sent]
    assert cli.main(["publish", str(good), "org/net", "--dry-run", "--create-pr", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["create_pr"] and found["left_out"] == [] and found["files"].keys() == {p.name for p in good.iterdir()}
    assert cli.main(["publish", str(good), "org/net", "--dry-run", "--create-pr"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "org/net, a pull request against main;" in first and last == "left out: nothing"
    assert cli.main(["publish", str(good), "org/net", "--dry-run", "--license", "gpl-3.0"]) == 2
    assert "--license: got 'gpl-3.0', but the card in" in capsys.readouterr().err


def test_only_the_code_of_a_repository_is_published_without_a_folder(monkeypatch, capsys, refused):
    asked = []
    commit = type("Commit", (), {"pr_url": "the pull request", "commit_url": "the commit"})
    monkeypatch.setattr("hf_effmodels.hub.publish", lambda *given, **options: asked.append((given, options)) or commit)
    monkeypatch.setattr("hf_effmodels._token.get_token", lambda: "hf_kept")
    assert cli.main(["publish", "org/net", "--refresh-code", "--create-pr"]) == 0
    ((given, options),) = asked
    assert given == (None, "org/net") and options["create_pr"] and options["refresh_code"] and not options["private"]
    assert capsys.readouterr().out == "the pull request\n"
    assert "FOLDER: got None, which only --refresh-code accepts" in refused("publish", "org/net")


def test_facts_stand_in_two_columns(capsys):
    assert cli.main(["info", "ghostnetv3-1.0x"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({re.match(r"\S+ +", line).end() for line in lines}) == 1 < len({len(line.split()[0]) for line in lines})


def test_a_table_and_facts_leave_out_what_is_not_known(capsys):
    assert cli.main(["list", "ghostnetv3-1.0x"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "preset" and row.split() == [
        *("ghostnetv3-1.0x", "8.13", "404.1", "6.13", "/", "167.0", "77.1", "GhostNetV3"),
    ]
    assert head.index("top-1") == row.index("77.1") and head.index("architecture") == row.index("GhostNetV3")
    assert cli.main(["list", "sam-diffsr-x4"]) == 0
    assert " dB on " in capsys.readouterr().out, "without a top-1 what else was published first"
    for name, told, left_out in (
        ("sam-diffsr-x4", {"published"}, {"top1", "timm"}),
        ("srdiff-x4", set(), {"published", "weights", "top1", "timm"}),
    ):
        assert cli.main(["info", name]) == 0
        facts = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
        assert facts["name"] == name and facts["tasks"] == "super-resolution" and told <= facts.keys()
        assert not left_out & facts.keys()
        assert not told or "on Set5 (official repository); SSIM " in facts["published"]
    assert cli.main(["info", "ghostnetv3-1.0x", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["top1"] == 77.1 and told["tasks"] == ["image-classification", "image-feature-extraction"]


def test_the_version_is_told_in_any_thread_and_whoever_waits_for_a_signal_keeps_it(capsys):
    before, codes = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["--version"])))
    thread.start()
    thread.join()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        codes.append(cli.main(["--version"]))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert codes == [0, 0] and capsys.readouterr().out == f"hf_effmodels {hf_effmodels.__version__}\n" * 2


def test_what_runs_as_a_program_sees_its_own_words_and_leaves_those_of_others(monkeypatch):
    seen, before = [], sys.argv
    monkeypatch.setattr("hf_effmodels.training.main", lambda: seen.append(sys.argv))
    assert cli.main(["train", "--config", "x"]) == 0
    assert seen == [["hf-effmodels train", "--config", "x"]] and sys.argv is before


def test_the_package_runs_as_a_module_as_the_command_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hf_effmodels", "list", "vanillanet-6"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hf_effmodels", run_name="__main__")
    assert not ended.value.code and "vanillanet-6" in capsys.readouterr().out


def test_a_list_of_nothing_is_told_by_the_exit_code(capsys):
    assert cli.main(["list", "zzz*"]) == 1 and capsys.readouterr().out == "no preset matches\n"
    assert cli.main(["list", "zzz*", "--json"]) == 1 and json.loads(capsys.readouterr().out) == []
    assert cli.main(["list", "ghostnetv3*"]) == 0


def test_output_that_nobody_reads_ends_quietly():
    command = [sys.executable, "-c", "from hf_effmodels.cli import main; import sys; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen([*command, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == ""
    assert listing.returncode == 141


def test_a_connection_that_breaks_is_no_closed_output(good, refused, monkeypatch):
    def publish(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("hf_effmodels.hub.publish", publish)
    assert "Broken pipe" in refused("publish", good, "org/net", "--token", "hf_x")


def test_help_and_wrong_arguments_are_answered_without_importing_torch(tmp_path):
    """Which takes seconds: `docs/evidence/command_line.py` measures these calls."""
    place = Path(__file__).parent.parent / "docs" / "evidence" / "command_line.py"
    code = (
        "import contextlib, io, json, runpy, sys\n"
        f"calls = runpy.run_path({str(place)!r})\n"
        "calls['make_places']('.')\n"
        "calls = calls['calls']()\n"
        "from hf_effmodels.cli import main\n"
        "answers = []\n"
        "for words in calls:\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n"
        "            code = main(words)\n"
        "        except SystemExit as end:\n"
        "            code = end.code\n"
        "    answers.append([words, code, 'torch' in sys.modules, bool(out.getvalue()), err.getvalue()])\n"
        "print(json.dumps(answers))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    answers = json.loads(done.stdout.splitlines()[-1])
    commands = {name for group in cli._JOBS.values() for name in group}
    assert commands | {"-h"} == {words[0] for words, *_ in answers}
    for words, code, imported, out, err in answers:
        assert not imported, words
        assert (code, out, "error: " in err) == ((0, True, False) if words[-1] == "-h" else (2, False, True)), words


def test_a_command_that_is_told_to_end_leaves_nothing_half_written(tmp_path, monkeypatch):
    """SIGTERM, as Ctrl+C: what stands beside the folder until it is whole goes."""
    before = signal.getsignal(signal.SIGTERM)

    def interrupted(argv):
        with whole_folder(tmp_path / "out") as new:
            (new / "half").touch()
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "this process would end here"
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli, "_run", interrupted)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["export"])
        assert ended.value.code == 128 + signal.SIGTERM and not any(tmp_path.iterdir())
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_folder_that_holds_something_is_no_place_for_an_export_whatever_the_model(tmp_path, refused, monkeypatch):
    (tmp_path / "thesis.txt").write_text("mine")
    monkeypatch.setattr("hf_effmodels._kinds.check_head", lambda *_: pytest.fail("the model has been looked at"))
    monkeypatch.setattr(cli, "check_model", lambda *_: pytest.fail("the model has been looked at"))
    for model in ("ghostnet-1.0x", "org/model"):
        assert f"FOLDER: {tmp_path} is not empty" in refused("export", model, tmp_path, "--format", "onnx")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"license": "mitt"}, "license: got 'mitt'"),
        ({"license": "mitt", "space": True, "folder": None}, "license: got 'mitt'"),
        ({"space": True, "create_pr": True}, "--space: does not go with --create-pr; publish the model first."),
        ({"space": True, "refresh_code": True}, "--space: does not go with --refresh-code"),
        ({"space": True, "revision": "dev"}, "--space: does not go with --revision"),
        ({"space": True, "repo_id": "net"}, "repo_id: got 'net'"),
        ({"dry_run": True, "space": True}, "--dry-run: does not go with --space, which begins with"),
        ({"dry_run": True, "refresh_code": True, "folder": None}, "--dry-run: does not go with --refresh-code"),
        ({"repo_id": "net"}, "repo_id: got 'net'"),
        ({"create_pr": True, "revision": "dev"}, "revision: got 'dev' with create_pr=True"),
        ({"folder": None}, "folder_or_model: got None, which only refresh_code=True accepts"),
        ({}, "folder_or_model: .*nowhere is not a folder"),
    ],
)
def test_what_is_wrong_with_a_publication_is_said_by_names_and_files_alone(given, said, tmp_path):
    plain = {"folder": str(tmp_path / "nowhere"), "repo_id": "org/net", "license": "mit", "space": False}
    plain |= {"create_pr": False, "refresh_code": False, "revision": None, "dry_run": False}
    with pytest.raises(ValueError, match=f"^{said}"):
        cli._check_publication(SimpleNamespace(**plain | given))


def test_code_is_renewed_without_a_folder_and_a_model_may_be_shown_that_is_published():
    plain = {"folder": None, "repo_id": "org/net", "license": None, "create_pr": False, "revision": None}
    plain["dry_run"] = False
    cli._check_publication(SimpleNamespace(**plain, space=False, refresh_code=True))
    cli._check_publication(SimpleNamespace(**plain, space=True, refresh_code=False))


PLAIN = {"precision": "float32", "calibrate": None, "min_agreement": None, "nms": False}
PLAIN |= {"threshold": None, "nms_threshold": None, "max_detections": None}


@pytest.mark.parametrize(
    "name, value",
    [
        ("precision", "float16"),
        ("calibrate", "photos"),
        ("min_agreement", 0.5),
        ("min_agreement", 0.0),
        ("nms", True),
        ("threshold", 0.0),
        ("nms_threshold", 0.25),
        ("max_detections", 1),
    ],
)
def test_options_that_do_not_go_with_a_kind_of_model_are_named_whatever_they_are(name, value):
    for short in ("float32", "fp32"):
        cli._check_plain(SimpleNamespace(**PLAIN | {"precision": short}), "halves")
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"^{option}: got {value!r}, which halves are not exported with.$"):
        cli._check_plain(SimpleNamespace(**PLAIN | {name: value}), "halves")
    of_detectors = name in cli._OF_DETECTORS
    with pytest.raises(ValueError, match=option) if of_detectors else nullcontext():
        cli._check_plain(SimpleNamespace(**PLAIN | {name: value}), "language models", cli._OF_DETECTORS)


@pytest.mark.parametrize("pattern", [(), ("ghostnet*",), ("adem*",)])
@pytest.mark.parametrize("task", [None, "image-classification", "feature-extraction", "text-generation"])
def test_the_list_has_the_presets_of_the_pattern_and_the_task_and_no_others(pattern, task, capsys):
    code = cli.main(["list", *pattern, *(() if task is None else ("--task", task)), "--json"])
    names = [found["name"] for found in json.loads(capsys.readouterr().out)]
    every = {name: hf_effmodels.model_info(name) for name in hf_effmodels.list_models()}
    of_pattern = [name for name in every if name.startswith(pattern[0][:-1] if pattern else "")]
    assert names == [name for name in of_pattern if task is None or task in every[name].tasks]
    assert code == (0 if names else 1)


@pytest.mark.parametrize("command", sorted(cli.PASSED_ON))
def test_what_runs_for_days_says_where_it_failed_and_all_else_is_one_line(command, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    monkeypatch.setitem(cli.PASSED_ON, command, fail)
    trained = {"quickstart", "train", "evaluate", "train-codec", "offload", "decompose"}
    if command in trained | {"benchmark", "prune", "quantize"}:
        with pytest.raises(ZeroDivisionError):
            cli.main([command])
    else:
        assert cli.main([command]) == 2 and "ZeroDivisionError: by zero (an input" in capsys.readouterr().err
        monkeypatch.setenv(cli.TRACEBACK, "1")
        with pytest.raises(ZeroDivisionError):
            cli.main([command])


def test_facts_that_are_nothing_are_left_out_and_noughts_are_told():
    facts = {"folder": "out", "difference": 0.0, "folded": False, "batches": (1, 3), "bytes": 0}
    facts |= {"text": None, "note": "", "ignored": [], "warnings": (), "graphs": ("head", "tail")}
    assert cli._show_facts(facts).splitlines() == [
        "folder      out",
        "difference  0.0",
        "folded      False",
        "batches     (1, 3)",
        "bytes       0",
        "graphs      head; tail",
    ]


@pytest.mark.parametrize("name", ["float32", "fp32"])
def test_float32_is_what_all_exports_are_made_in_by_either_name(name):
    plain = dict.fromkeys(cli._OF_ONE_GRAPH) | {"nms": False, "precision": name}
    cli._check_plain(SimpleNamespace(**plain), "halves")
    cli._check_calibration(SimpleNamespace(**plain | {"nms": True}, preset="gold-yolo-n"))
    with pytest.raises(ValueError, match="^--precision: got 'fp16', accepted with --nms is float32.$"):
        cli._check_calibration(SimpleNamespace(**plain | {"nms": True, "precision": "fp16"}, preset="gold-yolo-n"))


NETWORKS = {
    "resnet": "ResNetForImageClassification",
    "detr": "DetrForObjectDetection",
    "llama": "LlamaForCausalLM",
    "gold_yolo": "GoldYoloForObjectDetection",
}


@pytest.mark.parametrize(
    "model_type, given, said",
    [
        ("resnet", {"nms": True}, "--nms: resnet is for image-classification; boxes are suppressed of Gold-YOLO."),
        ("llama", {"nms": True}, "--nms: got True, which language models are not exported with."),
        (
            "detr",
            {"nms": True},
            "--nms: detr is a detr, which keeps boxes by their scores alone: there is nothing to ",
        ),
        ("gold_yolo", {"nms": True}, None),
        ("gold_yolo", {"precision": "int8"}, "--precision: got 'int8', which goes with models for image-class"),
        ("gold_yolo", {"precision": "float16", "calibrate": "few"}, "--calibrate: pictures are compared by their cl"),
        ("resnet", {"precision": "int4"}, "--precision: got 'int4', which goes with models for text-generation; resn"),
        ("resnet", {"precision": "int8"}, "--calibrate: int8 is calibrated on pictures; give a folder of them."),
        ("resnet", {"precision": "int8", "calibrate": "no"}, "calibration: there is no folder 'no'."),
        ("resnet", {"precision": "int8", "calibrate": "few"}, "calibration: few has 7 pictures, accepted are 8 or mo"),
        ("resnet", {"precision": "int8", "calibrate": "enough"}, None),
        ("resnet", {"calibrate": "enough"}, "--calibrate: pictures go with --precision int8 and --precision float16."),
        ("resnet", {"precision": "fp16", "calibrate": "enough", "min_agreement": 0.5}, None),
        ("resnet", {"min_agreement": 0.5}, "--min-agreement goes with --calibrate."),
        ("llama", {"calibrate": "./nowhere.txt"}, "--calibrate: there is no folder or file './nowhere.txt'"),
        ("llama", {"precision": "int8"}, None),
        ("llama", {"precision": "int4", "calibrate": "pydoc_topics"}, None),
    ],
)
def test_options_of_an_export_that_do_not_go_with_its_kind_are_refused_by_its_config_alone(
    model_type, given, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = {"model_type": model_type, "architectures": [NETWORKS[model_type]]}
    (tmp_path / model_type).mkdir()
    (tmp_path / model_type / "config.json").write_text(json.dumps(config))
    for folder, number in (("few", 7), ("enough", 8)):
        (tmp_path / folder).mkdir()
        for n in range(number):
            (tmp_path / folder / f"{n}.png").write_bytes(b"")
    arguments = SimpleNamespace(**PLAIN | given, preset=model_type)
    with pytest.raises((ValueError, OSError), match=f"^{re.escape(said)}") if said else nullcontext():
        cli._check_calibration(arguments)
