"""`hf-effmodels prepare` finds what is in its folder, runs it by name and says what there is."""

import importlib
import sys
from dataclasses import fields

import pytest

from hf_effmodels.cli import main
from hf_effmodels.training import preparation


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A preparation that somebody has added: a file of its own, known nowhere else."""
    (tmp_path / "image_counts.py").write_text(
        '"""How many images there are."""\n\n\ndef main(argv):\n    return " ".join(["made of", *argv])\n'
    )
    monkeypatch.setattr(preparation, "__path__", [*preparation.__path__, str(tmp_path)])
    yield
    sys.modules.pop("hf_effmodels.training.preparation.image_counts", None)


def test_a_file_in_the_folder_is_a_preparation(counted, capsys):
    assert main(["prepare", "image-counts", "--teacher", "vit"]) == 0
    assert capsys.readouterr().out == "made of --teacher vit\n"
    assert main(["prepare", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "  image-counts            How many images there are." in shown
    assert "  super-resolution-masks  Structure maps for the training of SAM-DiffSR" in shown
    names = [line.split()[0] for line in shown.splitlines()[2:]]
    assert len(names) > 5 and all(before < after for before, after in zip(names, names[1:], strict=False))


@pytest.mark.parametrize("argv", [[], ["masks"], ["--dataset", "photos"]])
def test_an_unknown_preparation_is_answered_with_those_there_are(argv, capsys):
    assert main(["prepare", *argv]) == 2
    told = f"prepare: got {argv[0]}" if argv else "prepare: name what is to be made: "
    assert told in (error := capsys.readouterr().err) and "super-resolution-masks" in error


def test_the_table_s_folder_is_printed(pictures, tmp_path, capsys, monkeypatch):
    from hf_effmodels.training.preparation.super_resolution_masks import table

    monkeypatch.setattr(table, "slic", lambda *_: lambda image: [])
    argv = ["prepare", "super-resolution-masks", "--dataset", str(pictures), "--segmenter", "slic"]
    assert main([*argv, "--output", str(tmp_path / "maps")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'maps'}\n"
    assert main([*argv, "--output", str(tmp_path / "maps")]) == 2
    assert "is not empty and holds no unfinished table" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module, settings, published",
    [
        # Of each picture the largest in half precision: TinyViT's ten probabilities of an ImageNet, ReLabel's five
        # logits of each place.
        ("soft_labels", "SoftLabelArguments", {"top_k": 10, "label_precision": "float16"}),
        ("label_maps.table", "LabelMapTableArguments", {"top_k": 5, "label_precision": "float16"}),
        # GPT4Image's unit vectors.
        ("text_embeddings.table", "TextEmbeddingArguments", {"normalize": True, "pooling": "auto", "split": "train"}),
        ("visual_sentences", "VisualSentenceArguments", {"image_size": None, "expand": None, "seed": 0}),
    ],
)
def test_a_preparation_that_is_told_nothing_makes_what_was_published(module, settings, published):
    settings = getattr(importlib.import_module(f"{preparation.__name__}.{module}"), settings)
    assert {f.name: f.default for f in fields(settings) if f.name in published} == published
