"""Numbers of functions and of the command line: where they end, and what is said of those beyond."""

import argparse
import importlib
import math
import os
import sys

import numpy as np
import pytest

from hf_effmodels import _command_line, _numbers, _option_types
from hf_effmodels._command_line import Parser, in_words_of_the_command, nearest
from hf_effmodels._image_size import blaming_image_size

LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    "read, taken, refused, accepted",
    [
        (
            _option_types.finite,
            {"-1.5": -1.5, "0": 0.0, "1e9": 1e9},
            ["inf", "-inf", "nan", "x", ""],
            "finite numbers",
        ),
        (_option_types.positive, {"0.1": 0.1, "7": 7.0}, ["0", "-1", "inf", "nan", "x"], "numbers above 0"),
        (_option_types.share, {"0": 0.0, "1": 1.0, "0.25": 0.25}, ["-0.1", "1.01", "nan", "x"], "numbers from 0 to 1"),
        (
            _option_types.number,
            {
                "1": 1,
                "48000": 48000,
                "48k": 48000,
                "48K": 48000,
                "15M": 15_000_000,
                "1.5b": 1_500_000_000,
                "999.4": 999,
                "999.6": 1000,
                **{"8.2M": 8_200_000, "16.1M": 16_100_000, "1.001k": 1001},  # which no binary fraction is
            },
            ["0", "0.9", "1e15", "x", "k", "", "nan", "-3", "1e6B"],
            "numbers from 1, such as 48000, 48k, 15M or 1.5B",
        ),
        (
            _option_types.count,
            {"1": 1, "+3": 3, str(LARGEST): LARGEST},
            ["0", "1.0", "1e3", str(LARGEST + 1)],
            "whole numbers from 1",
        ),
        (_option_types.from_zero, {"0": 0}, ["-1", "x"], "whole numbers from 0"),
        (
            _option_types.seed,
            {"0": 0, "4294967295": 2**32 - 1},
            ["-1", "4294967296"],
            "whole numbers from 0 to 4294967295",
        ),
        (_option_types.whole(-2, 3), {"-2": -2, "3": 3}, ["-3", "4", "9" * 20], "whole numbers from -2 to 3"),
    ],
)
def test_options_take_numbers_up_to_their_bounds_and_say_them(read, taken, refused, accepted):
    for text, value in taken.items():
        assert read(text) == value and type(read(text)) is type(value)
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError) as said:
            read(text)
        assert str(said.value) == f"got {text}, accepted are {accepted}"


def test_places_to_compute_are_torchs_own_or_of_a_package(monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    assert _option_types.names_device("cpu") and _option_types.names_device("cuda:1")
    assert not _option_types.names_device("gpu") and not _option_types.names_device("")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ["one"] * (group == "torch.backends"))
    assert _option_types.names_device("gpu")


def test_truth_values_texts_and_what_is_not_finite_are_no_numbers():
    for value in (0, -1.5, np.float32(2), np.int64(3)):
        assert _numbers.is_real(value)
    for value in (True, "1", None, math.inf, -math.inf, math.nan, [1]):
        assert not _numbers.is_real(value)
    assert type(_numbers.as_index(np.int64(3))) is int and _numbers.as_index(np.int64(3)) == 3
    for value in (True, 2.0, "3", None):
        assert _numbers.as_index(value) is value
    assert _numbers.is_whole(2, 2) and _numbers.is_whole(5, 2, 5) and _numbers.is_whole(10**30, 0)
    assert not _numbers.is_whole(True, 0)
    for value in (1, 6, 2.0, True, np.int64(3), "3"):
        assert not _numbers.is_whole(value, 2, 5)


@pytest.mark.parametrize(
    "check, taken, refused, accepted",
    [
        (_numbers.check_positive, (1e-9, 3), (0, -1, math.inf, math.nan, True, "1", None), "positive numbers"),
        (_numbers.check_from_zero, (0, 0.5), (-1e-9, math.inf, False, "0"), "numbers from 0"),
        (_numbers.check_share, (0, 1, 0.5), (-0.1, 1.1, True, math.nan), "numbers from 0 to 1"),
        (lambda **given: _numbers.check_whole(2, 5, **given), (2, 5), (1, 6, 2.0, True), "whole numbers from 2 to 5"),
        (lambda **given: _numbers.check_whole(2, **given), (2, 10**20), (1, "2"), "whole numbers from 2"),
    ],
)
def test_each_number_that_a_function_is_given_is_named_where_it_is_none(check, taken, refused, accepted):
    for value in taken:
        check(first=value, second=value)
    for value in refused:
        with pytest.raises(ValueError) as said:
            check(first=taken[0], second=value)
        assert str(said.value) == f"second: got {value!r}, accepted are {accepted}."


@pytest.mark.parametrize(
    "size, error, asked_for, message",
    [
        (
            4,
            ValueError("pixel_values: the images are too small"),
            False,
            "image_size: got 4×4; the images are too small",
        ),
        ((4, 8), RuntimeError("pixel_values: too small"), False, "image_size: got 4×8; too small"),
        (None, ValueError("pixel_values: too small"), False, "image_size: too small"),
        (4, RuntimeError("a size: of something\nand a page"), True, "image_size: got 4×4; a size: of something"),
        (4, ValueError(""), True, "image_size: got 4×4; ValueError"),
        (4, ValueError("depth: got 3"), False, None),
        (4, ValueError("pixel_values"), False, None),
        (4, TypeError("pixel_values: too small"), True, None),
    ],
)
def test_what_a_network_says_of_pixels_is_said_of_the_size_that_was_asked_for(size, error, asked_for, message):
    with pytest.raises(type(error) if message is None else ValueError) as said:
        with blaming_image_size(size, is_asked_for=asked_for):
            raise error
    assert said.value is error if message is None else str(said.value) == message


def test_arguments_that_a_command_does_not_have_are_named_with_what_comes_near():
    parser = Parser(prog="x")
    group = parser.add_argument_group("more")
    parser.add_argument("--task")
    assert group.add_argument("--tile-size", type=int).dest == "tile_size"
    assert [action.dest for action in parser.declared] == ["help", "task", "tile_size"]
    parser.check_no_rest([])
    for rest, said in (
        (["--tile-sise=3"], "unknown argument '--tile-sise'; nearest: --tile-size"),
        (["--qqq"], "unknown argument '--qqq'; --help lists the known ones"),
        (["b", "--task"], "one value too many: 'b'"),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            parser.check_no_rest(rest)
    with pytest.raises(ValueError, match="^--tile-size: got 'x', no whole number.$"):
        parser.parse_args(["--tile-size", "x"])
    parser.add_argument("--kind", choices=("a", "b"))
    with pytest.raises(ValueError, match="^--kind: got 'x', accepted are "):
        parser.parse_args(["--kind", "x"])
    with pytest.raises(ValueError, match="^unknown argument '--kid'; nearest: --kind$"):
        parser.parse_args(["--kid", "x"])
    assert parser.parse_known_args(["--tas", "x"])[1] == ["--tas", "x"], "no half of an option"
    assert nearest("abcd", ["abce", "abcf", "abcg", "abch"]).count("abc") == 3
    assert nearest("abcd", ["xyz"]) == "" and nearest("abcd", ["xyz"], "?") == "?"


@pytest.mark.parametrize(
    "message, said",
    [
        ("image_size: got 4", "--image-size: got 4"),
        ("--image_size: got 4", "--image-size: got 4"),
        ("image_size, name: exclude each other", "--image-size, NAME: exclude each other"),
        ("image_size, other: exclude", "image_size, other: exclude"),
        ("image_size", "image_size"),
        ("set image_size=64, or private=True.", "set --image-size 64, or --private."),
        ("name='of a text' or name=\"b\"", "NAME of a text or NAME b"),
        ("other='x', 3image_size=4", "other='x', 3image_size=4"),
        ("private=Trueish", "--private Trueish"),
    ],
)
def test_what_a_function_says_is_said_in_the_commands_words(message, said):
    words = {"image_size": "--image-size", "name": "NAME", "private": "--private"}
    assert in_words_of_the_command(message, words) == said


@pytest.mark.parametrize("said_before", [None, "1", "true", "0", ""])
@pytest.mark.parametrize("imported", ["before", "within", "afterwards"])
def test_progress_bars_of_a_library_go_within_a_command_alone_whenever_it_is_imported(
    said_before, imported, tmp_path, monkeypatch
):
    """As far as nobody has switched them off before, or asked for them."""
    on, asked = said_before not in ("1", "true"), said_before in ("0", "")
    (tmp_path / "late_bars.py").write_text(
        "shown = True\n"
        "def is_progress_bar_enabled(): return shown\n"
        "def enable_progress_bar(): global shown; shown = True\n"
        "def disable_progress_bar(): global shown; shown = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "late_bars", raising=False)
    monkeypatch.setattr(_command_line, "_BARS", "late_bars")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.delenv(name, raising=False)
        if said_before is not None:
            monkeypatch.setenv(name, said_before)
    if imported == "before":
        importlib.import_module("late_bars").shown = on
    with _command_line.keeping_progress_bars():
        _command_line.without_progress_bars()
        if imported != "afterwards":
            assert importlib.import_module("late_bars").shown is asked
        assert os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] == ("1" if said_before is None else said_before)
    assert os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == said_before
    assert importlib.import_module("late_bars").shown is on
    sys.modules.pop("late_bars")
