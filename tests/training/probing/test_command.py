"""`hf-effmodels probe`"""

import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, ViTConfig, ViTImageProcessorPil, ViTModel

from hf_effmodels import cli
from hf_effmodels.training.probing import probe as probing
from hf_effmodels.training.probing.command import main

DIGITS = ("--dataset", "digits", "--max_train_samples", "60", "--max_eval_samples", "30")
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Two ViTs of one channel."""
    place = tmp_path_factory.mktemp("encoders")
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        config = ViTConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
        )
        ViTModel(config, add_pooling_layer=False).save_pretrained(place / name)
        ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(place / name)
    return place


def probe(*words):
    words = [str(word) for word in words]
    models = next((number for number, word in enumerate(words) if word.startswith("--")), len(words))
    return cli.main(["probe", *words[:models], *DIGITS, *words[models:]])


def test_the_help_names_the_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["probe", "--help"])
    assert capsys.readouterr().out.startswith("usage: hf-effmodels probe ")


@pytest.mark.draws
def test_models_are_told_apart_in_a_table_and_kept(encoders, tmp_path, capsys):
    assert probe(encoders / "one", encoders / "two", "--output", tmp_path / "out") == 0
    table = capsys.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "out/probe.json").read_text())
    assert table[0].split() == ["model", "features", "k-NN", "%", "linear", "%"]
    for line, row in zip(table[1:], rows, strict=True):
        assert line.split() == [
            row["model"], "16", f"{100 * row['knn_accuracy']:.2f}", f"{100 * row['linear_accuracy']:.2f}"
        ]  # fmt: skip
        assert 0.3 < row["linear_accuracy"] < 1 and row["train_samples"] == 60 and row["evaluation_samples"] == 30
        assert (tmp_path / "out" / os.path.basename(row["model"]) / "features.png").stat().st_size > 1000
    assert (
        rows[0]["knn_accuracy"] != rows[1]["knn_accuracy"] or rows[0]["linear_accuracy"] != rows[1]["linear_accuracy"]
    )


def test_models_of_one_last_name_have_folders_of_as_many_of_their_names_as_tell_them_apart(tmp_path):
    here = ["x/vit", "y/vit", "z/y/vit"]
    names = ["a/vit", "b/vit", "c/deit", *(str(tmp_path / name) for name in here)]
    for name in names[3:]:
        os.makedirs(name)
    found = probing._folders(tmp_path / "out", names)
    expected = ["vit", "b_vit", "deit", "x_vit", "y_vit", "z_y_vit"]
    assert list(found.items()) == [(name, tmp_path / "out" / own) for name, own in zip(names, expected, strict=True)]
    for twice in ("a/vit", "c/deit", names[3]):
        with pytest.raises(ValueError, match=f"^--models: {twice} stands twice.$"):
            probing._folders(tmp_path / "out", [*names, twice])


def test_features_are_computed_once_for_the_same_weights_pictures_and_pooling(encoders, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        probing, "features_of", lambda *args, real=probing.features_of: seen.append(args[4]) or real(*args)
    )
    out = ("--output", tmp_path / "out")
    assert probe(encoders / "one", *out) == 0 and seen == ["mean"] * 2
    assert probe(encoders / "one", *out, "--neighbours", 3, "--picture", "tsne") == 0 and seen == ["mean"] * 2
    assert probe(encoders / "one", *out, "--pooling", "class") == 0 and seen[2:] == ["class"] * 2
    model = AutoModel.from_pretrained(encoders / "one", add_pooling_layer=False)
    with torch.no_grad():
        model.layernorm.bias += 1
    model.save_pretrained(tmp_path / "one")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "one")
    assert probe(tmp_path / "one", *out, "--pooling", "class") == 0 and len(seen) == 6
    with safe_open(tmp_path / "out/one/features.safetensors", "np") as opened:
        assert opened.get_tensor("train").shape == (60, 16) and opened.get_tensor("evaluation").shape == (30, 16)
    for more in ("--max_train_samples", 61), ("--max_eval_samples", 31):
        assert probe(tmp_path / "one", *out, "--pooling", "class", *more, "--picture", "none") == 0
    assert len(seen) == 10, "of other pictures, to train on or to evaluate on"
    assert not (tmp_path / "out/one/features.png").exists()


def test_classifiers_are_fitted_with_what_is_asked_for(encoders, tmp_path, monkeypatch):
    given = []
    for name in ("linear_probe", "nearest_neighbours"):
        real = getattr(probing, name)
        monkeypatch.setattr(probing, name, lambda *args, f=real: given.append(args[3:]) or f(*args))
    options = ("--linear_strength", 0.01, "--seed", 5, "--neighbours", 3, "--temperature", 0.5)
    assert probe(encoders / "one", "--output", tmp_path / "out", *options) == 0
    assert given == [(3, 0.5), (0.01, 5)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "MODEL is missing"),
        (("one", "one"), "one stands twice"),
        (("one", "two", "--revision", "main"), "--revision goes with one model"),
        (("one", "--neighbours", "0"), "--neighbours: got 0"),
        (("one", "--temperature", "nan"), "--temperature: got nan"),
        (("one", "--pooling", "max"), "--pooling"),
        (("one", "--max_train_samples", "1"), "--max_train_samples, --classes: .* has samples of one class"),
        (("one", "--pooling", "model"), "--models: .*one lacks weights of ViTModel"),
        (("none",), "--models: .*none"),
        (("text",), "--models: .*text"),
    ],
)
def test_bad_input_ends_in_a_message(encoders, tmp_path, capsys, words, message):
    (encoders / "text").mkdir(exist_ok=True)
    (encoders / "text/config.json").write_text('{"model_type": "bert"}')
    words = [encoders / word if word in ("one", "two", "none", "text") else word for word in words]
    assert probe(*words, "--output", tmp_path / "out") != 0
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert re.search(message, printed), printed
    assert not (tmp_path / "out").exists()


def test_a_file_for_the_pictures_is_told_before_they_are_read(encoders, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_effmodels.training.probing.probe.probe", lambda reader: pytest.fail("too late"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="^--dataset: '.*notes.txt' is a file; accepted are a folder"):
        main([str(encoders / "one"), "--dataset", str(tmp_path / "notes.txt"), "--output", str(tmp_path / "out")])


def test_another_writers_folder_stays(encoders, tmp_path, capsys):
    (tmp_path / "out/one").mkdir(parents=True)
    (tmp_path / "out/one/thesis.txt").write_text("mine")
    assert probe(encoders / "one", "--output", tmp_path / "out") != 0
    assert "was not written by this command" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["one", "thesis.txt"]


def test_a_table_of_somebody_else_stays(encoders, tmp_path, capsys):
    for content in ("mine", '{"a": 1}', '[{"knn_accuracy": 1}, {}]'):
        (tmp_path / "probe.json").write_text(content)
        assert probe(encoders / "one", "--output", tmp_path) == 2
        assert "--output: " in capsys.readouterr().err and (tmp_path / "probe.json").read_text() == content


def test_features_that_are_not_finite_are_named_by_their_part(encoders, monkeypatch):
    for wrong in ("train", "evaluation"):

        def measure(model, processor, pictures, *_, wrong=wrong):
            return np.array([[1.0, np.inf if pictures.split == wrong else 2.0]])

        monkeypatch.setattr(probing, "features_of", measure)
        monkeypatch.setattr(probing, "_known", lambda *_: None)
        parts = [SimpleNamespace(split=part, facts=dict, labels=np.zeros(1)) for part in ("train", "evaluation")]
        args = SimpleNamespace(pooling="mean", revision=None, token=None, trust_remote_code=False, batch_size=2)
        name = str(encoders / "one")
        with pytest.raises(ValueError, match=f"^--models: the {wrong} features of {name} are not finite.$"):
            probing._probe(name, encoders, args, *parts)
