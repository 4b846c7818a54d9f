"""Sizes and files are called what the command line calls them."""

from types import SimpleNamespace

import pytest

from hf_effmodels.compression.command import inheritance, prune, prune_vision, tokenizers
from hf_effmodels.compression.tokenizers import sentencepiece_bpe


@pytest.mark.parametrize(
    "field, option",
    [
        ("num_hidden_layers", "--layers"),
        ("hidden_size", "--hidden"),
        ("intermediate_size", "--intermediate"),
        ("num_attention_heads", "--heads"),
        ("num_key_value_heads", "--key-value-heads"),
        ("tolerance", "--tolerance"),
    ],
)
@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_what_is_wrong_with_a_size_is_said_of_its_option(monkeypatch, field, option, kind):
    def refuse(arguments):
        raise kind(f"{field}: got 3, accepted are others.")

    monkeypatch.setattr(prune, "_run", refuse)
    with pytest.raises(kind, match=f"^{option}: got 3, accepted are others"):
        prune.main(["model", "out"])


def test_a_file_of_sentencepiece_is_read_as_one_and_a_folder_by_transformers(tmp_path, monkeypatch):
    read = []
    model = SimpleNamespace(to_fast=lambda: "fast")
    monkeypatch.setattr(sentencepiece_bpe.SentencePieceBPE, "load", lambda name: read.append(name) or model)
    auto = SimpleNamespace(from_pretrained=lambda name: f"of {name}")
    monkeypatch.setattr("transformers.AutoTokenizer", auto)
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"")
    assert tokenizers._load_tokenizer(str(file)) == (model, "fast") and read == [str(file)]
    for name in ("folder.model", ".modelled"):  # no file, and a name that ends otherwise
        (tmp_path / name).mkdir()
        place = str(tmp_path / name)
        assert tokenizers._load_tokenizer(place) == (None, f"of {place}")
    assert read == [str(file)]


@pytest.mark.parametrize(
    "given, named, blamed",
    [
        ({}, "hidden_size", True),
        ({}, "hidden_size, num_attention_heads", True),
        ({"hidden_size": 8}, "hidden_size", False),
        ({"heads": 3}, "hidden_size, num_attention_heads", False),
        ({"hidden_size": 8, "heads": 3}, "hidden_size, num_attention_heads", False),
        ({}, "model", False),
        ({"like": None}, "hidden_size", False),
    ],
)
def test_the_shape_of_another_is_blamed_where_all_sizes_that_do_not_go_are_its(given, named, blamed):
    sizes = {"hidden_size": None, "heads": None, "key_value_heads": None, "layers": None, "intermediate_size": None}
    arguments = SimpleNamespace(**{"like": "other", **sizes, **given})
    with pytest.raises(ValueError, match=f"^{'--like: ' if blamed else ''}{named}: got 3, accepted is 2$"):
        with inheritance._blaming(arguments):
            raise ValueError(f"{named}: got 3, accepted is 2")


def test_pictures_are_asked_for_before_anything_is_read(tmp_path):
    (tmp_path / "file").touch()
    plain = dict(prune_vision._OF_LANGUAGE)
    for images, kind, message in (
        (None, ValueError, "--images is missing: name a folder of pictures"),
        (str(tmp_path / "none"), OSError, f"--images: there is no folder '{tmp_path}/none'"),
        (str(tmp_path / "file"), OSError, f"--images: there is no folder '{tmp_path}/file'"),
        (str(tmp_path), ValueError, f"--images: {tmp_path} has 0 pictures, accepted are 8 or more"),
    ):
        with pytest.raises(kind, match=message):
            prune_vision.check_options(SimpleNamespace(**plain, images=images))
    for number in range(8):
        (tmp_path / f"{number}.png").touch()
    prune_vision.check_options(SimpleNamespace(**plain, images=str(tmp_path)))
