"""`hf-effmodels quantize`"""

import json
import re
from dataclasses import fields
from pydoc_data.topics import topics
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_effmodels import cli
from hf_effmodels.hub.contents import model_files
from hf_effmodels.quantization.cbq import command, quantization, room, store
from hf_effmodels.quantization.cbq.blocks import find_blocks
from hf_effmodels.quantization.cbq.files import sizes
from hf_effmodels.quantization.cbq.settings import CbqSettings

from ..conftest import SIZES

TEXT = "\n".join(topics[name] for name in sorted(topics)[:12])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text and a model with its tokenizer."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "line.txt").write_text("To be or not to be.\n")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"initial_alphabet": alphabet, "special_tokens": ["<|end|>"], "show_progress": False}
    backend.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=300, **options))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(folder / "model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 300})).save_pretrained(folder / "model")
    return folder


def arguments(place, out, *more):
    sizes = ("--samples", "8", "--segment-length", "32", "--eval-samples", "4", "--group-size", "32", "--epochs", "1")
    return [str(each) for each in ("quantize", place / "model", out, "--dataset", place / "text.txt", *sizes, *more)]


def test_a_model_is_quantised_and_its_report_shown(place, tmp_path, capsys, monkeypatch):
    out, quantize, read = tmp_path / "out", quantization.quantize, []
    monkeypatch.setattr(
        quantization,
        "quantize",
        lambda model, batches, *a, **k: (read.extend(batches), quantize(model, batches, *a, **k))[1],
    )
    assert cli.main(arguments(place, out, "--bits", "4", "--json", "--license", "mit")) == 0
    # The text as it stands, as training reads it: nothing is put between its lines.
    assert all(text in TEXT for text in AutoTokenizer.from_pretrained(out).batch_decode(read[0]))
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "cbq" and report["bytes"] < report["bytes_before"]
    assert report["config"]["epochs"] == 1 and report["perplexity_after"] > 1
    assert [row["block"] for row in report["blocks"]] == [0, 1, 2]
    assert not (tmp_path / "out.work").exists()
    model = AutoModelForCausalLM.from_pretrained(out)
    ids = AutoTokenizer.from_pretrained(out)("The statement", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] == ids.shape[1] + 3
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "mit" and card.data.pipeline_tag == "text-generation"
    assert f"{report['perplexity_after']:.3f}" in card.text and "a step for 32 weights" in card.text
    # It shows what was drawn, tells what was measured, and its snippet runs where it lies.
    assert "](quantization_report.png)" in card.text and "quantization_report.png" in model_files(out)
    assert card.data.eval_results[0].metric_value == pytest.approx(report["perplexity_after"])
    assert "none was measured" not in card.text
    scope = {}
    with monkeypatch.context() as patch:
        patch.chdir(out)
        exec(re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)[0], scope)
    assert type(scope["pipe"].model).__name__ == "LlamaForCausalLM"
    # What the command wrote it replaces; anything else it does not.
    assert cli.main(arguments(place, out, "--method", "rtn", "--bits", "3", "--overwrite")) == 0
    assert "perplexity_after" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["quantization_config"]["quant_method"] == "cbq"


def test_weights_that_stay_as_they_are_are_named_once(place, tmp_path, capsys, caplog):
    left = ("--method", "rtn", "--modules-to-not-convert", "k_proj", "layers.0.self_attn.q_proj", "up_proj", "v_proj")
    assert cli.main(arguments(place, tmp_path / "out", *left)) == 0
    said = caplog.text + capsys.readouterr().out
    assert said.count("layers.0.self_attn.q_proj") == 1 and "layers.2.self_attn.k_proj.weight and 2 more" in said
    report = json.loads((tmp_path / "out" / "quantization_report.json").read_text())
    assert len(report["left_as_they_are"]) == 10


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "is a bert for fill-mask, accepted are causal"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "is a bert for .*feature-extraction, accepted are"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "is a llama for text-class"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"], "quantization_config": {}}, "quantised already"),
        ({"model_type": "gpt2", "architectures": ["GPT2Model"], "quantization_config": {}}, "quantised already"),
        ({"model_type": "gpt2", "quantization_config": {}}, "quantised already"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "is a vit, for which there is no AutoModelForCausalLM"),
    ],
)
def test_what_was_saved_without_a_causal_head_is_refused_by_its_configuration(place, tmp_path, capsys, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = ("--dataset", str(place / "text.txt"))
    assert cli.main(["quantize", str(tmp_path), str(place / "out"), *text]) == 2
    assert re.match(f"hf-effmodels: error: MODEL: .* {words}", capsys.readouterr().err)


def test_a_killed_command_goes_on_when_it_is_given_again(place, tmp_path, monkeypatch, capsys):
    finish, steps = store.Progress.finish, []

    def killed(self, step, rows):
        if step == 1:
            raise KeyboardInterrupt
        finish(self, step, rows)

    for offload in ((), ("--offload",)):
        out = tmp_path / f"out{len(offload)}"
        monkeypatch.setattr(store.Progress, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            cli.main(arguments(place, out, "--method", "gptq", *offload))
        assert not out.exists()
        monkeypatch.setattr(store.Progress, "finish", lambda self, *args: (steps.append(args[0]), finish(self, *args)))
        assert cli.main(arguments(place, out, "--method", "gptq", *offload)) == 0
    assert steps == [1, 2, 1, 2]
    capsys.readouterr()
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out0", "out1")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "more, text",
    [
        (("--bits", "5"), "--bits: got 5, accepted are 2, 3, 4, 8"),
        (("--group-size", "24"), "--group-size: got 24, which does not divide the 64 inputs of model.layers.0"),
        (("--group-size", "24"), "; accepted for this model are 8, 16, 32 and none (a step for each row)"),
        (("--segment-length", "100000"), "--segment-length: got 100000, but the calibration text has only"),
        (("--samples", "100000"), "--samples: got 100000, but the calibration text has only"),
        (("--format", "gptq", "--asymmetric"), "--format: gptq is written for symmetric"),
        (("--overlap", "2"), "--overlap: got 2, accepted are 0 to window - 1 = 1"),
        (("--license", "unheard-of"), "license"),
        (("--window", "0"), "--window: got 0"),
        (("--rank", "0"), "--rank: got 0, accepted are whole numbers from 1 and none"),
        (("--group-size", "x"), "--group-size: got x, accepted are whole numbers and none"),
        (("--segment-length", "1"), "--segment-length: got 1, accepted are 2 and more"),
        (("--device", "nonsense"), "--device: got 'nonsense', where torch cannot compute here"),
        (("--work", __file__), f"--work: {__file__} is a file; accepted is a folder"),
        (("--sampels", "4"), "unknown argument '--sampels'; nearest: --samples"),
        (
            ("--modules-to-not-convert", "mlp", "self_attn"),
            "--modules-to-not-convert: got mlp self_attn, which",
        ),
        (("--dataset", "nowhere.txt"), "--dataset: there is no file 'nowhere.txt'"),
        (("--dataset", "line.txt"), "--dataset: the only document of line.txt has no line in its last 10%, where"),
    ],
)
def test_wrong_input_ends_in_a_line(place, tmp_path, capsys, monkeypatch, more, text):
    monkeypatch.setenv(cli.TRACEBACK, "1")
    monkeypatch.chdir(place)
    assert cli.main(arguments(place, tmp_path / "out", *more)) == 2
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_folders_and_quantised_models_are_refused(place, tmp_path, capsys, checkpoint):
    for name in ("mine.txt", "quantization_report.json"):  # a name makes no folder ours
        (tmp_path / "theirs").mkdir(exist_ok=True)
        (tmp_path / "theirs" / name).write_text("mine")
        assert cli.main(arguments(place, tmp_path / "theirs")) == 2
        said = capsys.readouterr().err
        assert "error: OUT: " in said and "was not written by this command" in said
        assert (tmp_path / "theirs" / name).read_text() == "mine"
    assert cli.main(arguments(place, tmp_path / "out", "--method", "rtn")) == 0
    (tmp_path / "out" / "adapter_model.safetensors").write_text("mine")
    assert cli.main(arguments(place, tmp_path / "out", "--method", "rtn")) == 2
    assert f"OUT: {tmp_path / 'out'} is not empty; choose another folder, or " in capsys.readouterr().err
    assert cli.main(arguments(place, tmp_path / "out", "--method", "rtn", "--overwrite")) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").read_text() == "mine"
    (tmp_path / "out" / "README.md").write_text("my card")
    assert cli.main(arguments(place, tmp_path / "out", "--method", "rtn")) == 2
    assert "README.md has been changed since it was written" in capsys.readouterr().err
    text = ("--dataset", str(place / "text.txt"))
    assert cli.main(["quantize", str(tmp_path / "out"), str(tmp_path / "twice"), *text]) == 2
    said = capsys.readouterr().err
    assert "error: MODEL: " in said and "is quantised already" in said
    for inside, words in (
        ("model", "is the folder of MODEL itself"),
        ("model/a/small", f"lies in the folder {place / 'model'} of MODEL"),
    ):
        assert cli.main(arguments(place, place / inside)) == 2
        assert f"error: OUT: {place / inside} {words}" in capsys.readouterr().err
    for work in ("new", "new/work", "."):
        assert cli.main(arguments(place, tmp_path / "new", "--work", tmp_path / work)) == 2
        assert "and OUT lie in each other" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert cli.main(["quantize", str(checkpoint), str(tmp_path / "bare"), *text]) == 2
    said = capsys.readouterr().err
    assert "error: MODEL: " in said and "cannot be found or read" in said


def test_what_was_computed_is_kept_where_the_result_cannot_be_written(place, tmp_path, monkeypatch, capsys):
    def full(self, folder, *_):
        raise OSError(f"folder: {folder} cannot be written (No space left on device).")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(quantization.Quantized, "save", full)
        assert cli.main(arguments(place, out, "--method", "rtn")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{out} cannot be written (No space left on device). What was computed stays in {out}.work" in said
    assert "folder:" not in said and said.endswith("the same call goes on from there.")
    assert (tmp_path / "out.work" / "state.json").is_file() and not out.exists()
    assert cli.main(arguments(place, out, "--method", "rtn")) == 0
    assert not (tmp_path / "out.work").exists() and (out / "config.json").is_file()


#: Every setting of CBQ away from its default, and the words for it.
SETTINGS = {
    "bits": (8, ["--bits", "8"]),
    "group_size": (16, ["--group-size", "16"]),
    "symmetric": (False, ["--asymmetric"]),
    "activation_bits": (6, ["--activation-bits", "6"]),
    "method": ("gptq", ["--method", "gptq"]),
    "modules_to_not_convert": (["k_proj", "layers.0.mlp"], ["--modules-to-not-convert", "k_proj", "layers.0.mlp"]),
    "blocks": ("model.layers", ["--blocks", "model.layers"]),
    "window": (5, ["--window", "5"]),
    "overlap": (3, ["--overlap", "3"]),
    "target": ("accumulated", ["--target", "accumulated"]),
    "kld_weight": (0.25, ["--kld-weight", "0.25"]),
    "rank": (None, ["--rank", "none"]),
    "rounding": ("soft", ["--rounding", "soft"]),
    "rounding_init": ("zero", ["--rounding-init", "zero"]),
    "learn_steps": (False, ["--fixed-steps"]),
    "cfp": (False, ["--no-cfp"]),
    "lambda1": (2.5, ["--lambda1", "2.5"]),
    "lambda2": (3.5, ["--lambda2", "3.5"]),
    "cfp_rounds": (4, ["--cfp-rounds", "4"]),
    "epochs": (7, ["--epochs", "7"]),
    "batch_size": (9, ["--batch-size", "9"]),
    "rounding_lr": (0.5, ["--rounding-lr", "0.5"]),
    "step_lr": (0.75, ["--step-lr", "0.75"]),
    "rounding_weight": (0.625, ["--rounding-weight", "0.625"]),
    "damping": (0.125, ["--damping", "0.125"]),
    "seed": (11, ["--seed", "11"]),
}


def test_every_option_says_what_is_computed_where_and_what_is_written(place, tmp_path, monkeypatch, capsys):
    given, saved, asked = [], [], []

    def result(model, batches, config, **options):
        given.append((batches, config, options))
        (tmp_path / "mine").mkdir()

        def save(*what):
            saved.append(what)
            return {"bits": 8}

        return SimpleNamespace(save=save)

    monkeypatch.setattr(quantization, "quantize", result)
    monkeypatch.setattr(room, "check_room", lambda wanted, kept=None: asked.append((wanted, kept)))
    words = [word for _, words in SETTINGS.values() for word in words]
    words += ["--format", "cbq", "--offload", "--work", str(tmp_path / "mine"), "--license", "mit", "--json"]
    words += ["--dataset", str(place / "text.txt"), "--samples", "5", "--segment-length", "32", "--eval-samples", "3"]
    out = tmp_path / "out"
    assert cli.main(["quantize", str(place / "model"), str(out), *words]) == 0
    ((batches, config, options),) = given
    assert [tuple(batch.shape) for batch in batches] == [(5, 32)]
    defaults = CbqSettings()
    assert SETTINGS.keys() == {f.name for f in fields(CbqSettings)} - {"quant_method", "format"}
    assert all(getattr(defaults, name) != value for name, (value, _) in SETTINGS.items())
    assert {name: getattr(config, name) for name in SETTINGS} == {name: value for name, (value, _) in SETTINGS.items()}
    assert [tuple(batch.shape) for batch in options.pop("evaluation")] == [(3, 32)]
    assert options == {"work": tmp_path / "mine", "offload": True, "progress": False}
    ((folder, form, tokenizer, license),) = saved
    assert (folder, form, len(tokenizer), license) == (out, "cbq", 300, "mit")
    assert json.loads(capsys.readouterr().out) == {"bits": 8, "folder": str(out)}
    assert not (tmp_path / "mine").exists(), "the progress goes when all is written"
    # There has to be room for the blocks that lie on the disk as well, and for what is written.
    ((wanted, kept),) = asked
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    assert wanted["work"] == (tmp_path / "mine", room.bytes_of_work(model, 5 * 32, True)) and kept == tmp_path / "mine"
    assert wanted["out"][0] == out and wanted["out"][1] > sizes(model, find_blocks(model, config), config)["bytes"]


@pytest.mark.parametrize(
    "words, form", [((), "compressed-tensors"), (("--bits", "3"), "cbq"), (("--format", "gptq"), "gptq")]
)
def test_rounding_to_nearest_needs_no_text_and_is_written_in_the_format_asked_for(
    words, form, place, tmp_path, monkeypatch, capsys
):
    given = []

    def result(model, batches, config, work, evaluation, **_):
        given.append((batches, evaluation, work))
        return SimpleNamespace(save=lambda folder, form, *_: {"format": form, "blocks": []})

    monkeypatch.setattr(quantization, "quantize", result)
    argv = ["quantize", str(place / "model"), str(tmp_path / "out"), "--method", "rtn", "--group-size", "32", *words]
    assert cli.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == form
    assert given == [(None, None, tmp_path / "out.work")]


def test_what_there_is_no_room_for_is_told_before_it_is_computed(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    monkeypatch.setattr(quantization, "quantize", lambda *_, **__: pytest.fail("it is computed"))
    assert cli.main(arguments(place, tmp_path / "out")) == 2
    assert re.search(r"error: --work, OUT: the disk of .* has room for 0\.001 GB", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_what_a_format_cannot_hold_is_told_before_any_text_is_read(place, tmp_path, monkeypatch, capsys):
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    model.model.layers[1].register_parameter("experts", torch.nn.Parameter(torch.zeros(2, 3, 4)))
    monkeypatch.setattr(command, "_load", lambda arguments: (model, None))
    monkeypatch.setattr(command, "_texts", lambda *_: pytest.fail("the text is read"))
    assert cli.main(arguments(place, tmp_path / "out")) == 2
    assert "--format: got 'compressed-tensors', but model.layers.1.experts holds several" in capsys.readouterr().err
