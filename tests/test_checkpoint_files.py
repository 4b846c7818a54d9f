"""A checkpoint's file is looked at without torch: what it is, whether it is whole, and whose code it names."""

import argparse
import collections
import io
import pickle
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hf_effmodels._checkpoint_files import (
    check_archive,
    check_checkpoint,
    check_file,
    foreign_names,
    not_loaded,
    not_safetensors,
)

TENSORS = {"a": torch.arange(600.0), "b": torch.ones(2, dtype=torch.bfloat16)}


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_taken_in_either_form(tmp_path, zipped):
    torch.save({"state": TENSORS, "epoch": 3}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    check_checkpoint(tmp_path / "a.pth")
    check_checkpoint(str(tmp_path / "a.pth"))
    assert foreign_names(tmp_path / "a.pth") == []


def test_safetensors_are_taken_and_told_where_they_are_cut(tmp_path):
    save_file({"a": np.ones(9)}, tmp_path / "a.safetensors")
    check_checkpoint(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    with pytest.raises(OSError, match=r"^checkpoint: .*b.safetensors is truncated or no safetensors file \(.+\).$"):
        check_checkpoint(tmp_path / "b.safetensors")
    assert "(first)" in str(not_safetensors(Path("x"), ValueError("first\nsecond")))
    assert "(KeyError)" in str(not_safetensors(Path("x"), KeyError()))


def test_places_without_a_file_are_told_apart(tmp_path):
    with pytest.raises(IsADirectoryError, match="^checkpoint: .* is a folder, accepted is a file.$"):
        check_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="^checkpoint: there is no file .*nowhere.$"):
        check_file(tmp_path / "nowhere")
    (tmp_path / "empty").touch()
    with pytest.raises(OSError, match="^checkpoint: .*empty is truncated: it is empty.$"):
        check_file(tmp_path / "empty")
    (tmp_path / "one").write_bytes(b"1")
    assert check_file(str(tmp_path / "one")) == tmp_path / "one"


@pytest.mark.parametrize("content", [b"text of somebody", b"\x00\x80", b"P", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_file_of_torch_is_said(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(OSError, match="^checkpoint: .*a.pth is truncated, damaged or no PyTorch file.$"):
        check_checkpoint(tmp_path / "a.pth")


def test_a_part_whose_checksum_is_wrong_is_named_and_a_whole_file_is_read_once_for_it(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    place = content.index(TENSORS["a"].numpy().tobytes()) + 100
    content[place] ^= 1
    (tmp_path / "b.pth").write_bytes(content)
    with pytest.raises(OSError, match="^checkpoint: .*b.pth is damaged: the checksum of .*/data/0 in it is wrong.$"):
        check_archive(tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match="^checkpoint: .*c.pth is truncated or damaged: it begins as a file of torch"):
        check_archive(tmp_path / "c.pth")
    check_archive(tmp_path / "a.pth")
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("it is read again"))
    check_archive(tmp_path / "a.pth")
    content[place] ^= 1
    (tmp_path / "a.pth").write_bytes(content + b"")
    import os

    os.utime(tmp_path / "a.pth", (1, 1))  # changed since
    with pytest.raises(pytest.fail.Exception):
        check_archive(tmp_path / "a.pth")


def test_a_part_without_anything_in_it_does_not_hide_that_another_is_damaged(tmp_path):
    torch.save({**TENSORS, "empty": torch.zeros(0)}, tmp_path / "a.pth")
    check_checkpoint(tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[content.index(TENSORS["a"].numpy().tobytes()) + 100] ^= 1
    (tmp_path / "b.pth").write_bytes(content)
    with pytest.raises(OSError, match="^checkpoint: .*b.pth is damaged: the checksum of .*/data/0 in it is wrong.$"):
        check_checkpoint(tmp_path / "b.pth")


def test_checksums_that_were_never_computed_are_not_compared(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    check_checkpoint(tmp_path / "a.pth")


def test_an_archive_of_other_things_is_refused_for_its_code_where_it_has_some(tmp_path):
    for name, content, error, message in (
        ("plain", b"1", OSError, r"is an archive, but not one that torch.save writes \(it has no data.pkl in a"),
        ("code", pickle.dumps(Fraction(1, 2)), ValueError, r"contains .* that would run code \(fractions.Fraction\)"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("data.pkl", content)  # and not in a folder
        with pytest.raises(error, match=f"^checkpoint: .*{name} {message}"):
            check_archive(tmp_path / name)


class Theirs:
    """Somebody's object."""


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_names_of_code_are_found_in_every_form_of_a_pickle(tmp_path, protocol):
    content = [Fraction(1, 3), Theirs(), Fraction(2, 3), collections.OrderedDict(a=1), argparse.Namespace(b=2)]
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol))
    found = foreign_names(tmp_path / "a")
    helpers = {"copy_reg._reconstructor", "copyreg._reconstructor", "__builtin__.object", "builtins.object"}
    assert [name for name in found if name not in helpers] == ["fractions.Fraction", f"{__name__}.Theirs"]


def test_names_are_found_in_each_of_several_pickles_and_before_the_damage(tmp_path):
    stream = io.BytesIO()
    for content in (1, Fraction(1, 2), "text", Theirs()):
        pickle.dump(content, stream, 4)
    (tmp_path / "a").write_bytes(stream.getvalue())
    assert foreign_names(tmp_path / "a") == ["fractions.Fraction", f"{__name__}.Theirs"]
    (tmp_path / "b").write_bytes(stream.getvalue()[:-1])
    assert "fractions.Fraction" in foreign_names(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"no pickle")
    assert foreign_names(tmp_path / "c") == []


def test_names_that_stand_twice_among_the_texts_are_not_mixed_up(tmp_path):
    """With protocol 4 a name may be called up again from the pickle's memory."""
    (tmp_path / "a").write_bytes(pickle.dumps(["fractions", "x", "Fraction", "y", Fraction(1, 2), Theirs()], 4))
    assert foreign_names(tmp_path / "a") == ["fractions.Fraction", f"{__name__}.Theirs"]


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.bfloat16, torch.device("cpu"), torch.Size([1]),
        np.float64(1.5), np.arange(3), collections.OrderedDict(a=1), argparse.Namespace(lr=0.1), torch.quint8 is None,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_weights_are_made_of_is_no_code(tmp_path, value):
    torch.save({"a": value}, tmp_path / "a.pth")
    assert foreign_names(tmp_path / "a.pth") == []


def test_code_beside_the_weights_is_named_and_at_most_three_of_it(tmp_path):
    torch.save({"a": torch.ones(2), "own": [Fraction(1, 2), Theirs(), Path("x"), complex(1, 2)]}, tmp_path / "a.pth")
    error = not_loaded(tmp_path / "a.pth")
    assert isinstance(error, ValueError) and "fractions.Fraction" in str(error) and f"{__name__}.Theirs" in str(error)
    assert str(error).split("(")[1].split(")")[0].count(",") == 2 and "only tensors are read" in str(error)
    (tmp_path / "b.pth").write_bytes(b"x")
    assert isinstance(not_loaded(tmp_path / "b.pth"), OSError)


def test_a_damaged_part_of_an_archive_is_passed_by_and_the_others_are_looked_at(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("x/one.pkl", pickle.dumps(Theirs()))
        archive.writestr("x/two.pkl", pickle.dumps(Fraction(1, 2)))
        archive.writestr("x/data/three", pickle.dumps(Theirs()))  # a tensor's own record
    content = bytearray((tmp_path / "a").read_bytes())
    content[content.index(b"Theirs")] ^= 1
    (tmp_path / "a").write_bytes(content)
    assert foreign_names(tmp_path / "a") == ["fractions.Fraction"]
