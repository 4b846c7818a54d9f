"""Sizes and files are called what the command line calls them."""

import argparse
from types import SimpleNamespace

import pytest
from PIL import Image

from hf_effmodels.compression import command as package
from hf_effmodels.compression.command import cards, inheritance, prune, prune_vision, tokenizers
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


@pytest.mark.parametrize(
    "option, value",
    [("hidden", 8), ("key_value_heads", 1), ("candidates", 2), ("retraining_steps", 3), ("method", "l1"),
     ("rescale_norms", True)],
)  # fmt: skip
def test_what_is_of_language_models_alone_is_refused_of_others(option, value):
    plain = {"hidden": None, "key_value_heads": None, "candidates": 1, "retraining_steps": 0, "method": "activation"}
    arguments = SimpleNamespace(**{**plain, "rescale_norms": False, "images": None, option: value})
    with pytest.raises(ValueError, match=f"^{option}: got {value}, which is for language models; of vision"):
        prune_vision.check_options(arguments)


def test_a_budget_is_a_share_below_one_or_a_number_of_parameters():
    for text, value in (("0.5", 0.5), ("50%", 0.5), ("99.5%", 0.995), ("1", 1), ("15M", 15_000_000), ("1.5k", 1500)):
        assert prune.share_or_number(text) == value
    for text in ("100%", "0%", "-5%", "x%"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"got {text}, accepted are shares between 0% and 100%"):
            prune.share_or_number(text)
    with pytest.raises(argparse.ArgumentTypeError, match="got 0, accepted are numbers from 1"):
        prune.share_or_number("0")


def test_text_is_read_by_documents_where_a_model_reads_it_and_by_lines_where_tokens_are_counted():
    steps = package._parser()[0]
    assert steps.parse_args(["inherit", "--model", "m", "--output", "o"]).text_unit == "document"
    assert prune._parser().parse_args(["m", "o"]).text_unit == "document"
    counted = ["compress-tokenizer", "--tokenizer", "t", "--output", "o"]
    assert steps.parse_args(counted).text_unit == "line"
    assert steps.parse_args([*counted, "--text-unit", "paragraph"]).text_unit == "paragraph"


@pytest.mark.parametrize("licence, stands", [("mit", "\nlicense: mit\n"), ("mitt", None), ("other", None)])
def test_a_licence_that_somebody_has_written_stands_in_a_card_if_it_is_one(licence, stands, tmp_path):
    source = tmp_path / "large"
    source.mkdir()
    (source / "README.md").write_text(f"---\nlicense: {licence}\nbase_model: org/whole\n---\n")
    card = cards.card_of_tokenizer(str(source), [("Tokens", "400, before 901")])
    assert "| Tokens | 400, before 901 |" in card and "| Made of | `large` |" in card
    assert "\n# large, smaller\n" in card and str(tmp_path) not in card and "\nbase_model: org/whole\n" in card
    assert stands in card if stands else "\nlicense:" not in card.partition("\n---\n")[0]


def test_pictures_are_read_in_the_channels_of_the_network(tmp_path):
    for number in range(3):
        Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.iterdir())

    def process(pictures, return_tensors):
        return {"pixel_values": [picture.mode for picture in pictures]}

    assert [*prune_vision._batches(files, process, 1, 2)] == [["L", "L"], ["L"]]
    assert [*prune_vision._batches(files, process, 3, 3)] == [["RGB"] * 3]


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
