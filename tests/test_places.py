from contextlib import nullcontext

import pytest
from huggingface_hub import constants

from hf_effmodels import _places
from hf_effmodels._places import check_place, first_line


class StrictDataclassFieldValidationError(Exception):
    """By the name alone is it known that a configuration speaks."""


def _of_configuration(said: Exception) -> Exception:
    error = StrictDataclassFieldValidationError("Validation error for field 'depth':\n    a page")
    error.__cause__ = said
    return error


@pytest.mark.parametrize(
    "error, expected",
    [
        (ValueError("One line."), "One line"),
        (ValueError("\n  First line.\n  Second line.\n"), "First line"),
        (OSError("Of these:\n\n  the first\n  the second"), "Of these: the first"),
        (ValueError("Of these:"), "Of these:"),
        (KeyError("depth"), "KeyError: 'depth'"),
        (RuntimeError("First.\nSecond."), "RuntimeError: First"),
        (ValueError(""), "ValueError: "),
        (ValueError(" \n "), "ValueError: "),
        (
            RuntimeError("Couldn't instantiate the backend tokenizer from:\na"),
            "there is no tokenizer in it",
        ),
        (
            ValueError("Unrecognized configuration class <class 'a.ViTConfig'> for this kind of Auto: AutoX.\na"),
            "it is a ViT, for which there is no AutoX",
        ),
        (_of_configuration(TypeError("depth: got x.\nmore")), "depth: got x"),
        (StrictDataclassFieldValidationError("alone"), "StrictDataclassFieldValidationError: alone"),
    ],
)
def test_of_a_long_error_its_first_line_is_said(error, expected):
    assert first_line(error) == expected


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """No cache, and nobody who answers at the Hub's address."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_places, "_is_hub_reached", lambda: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_may_be_on_the_hub_is_taken_where_it_is_cached_or_the_hub_answers(unreachable, monkeypatch):
    with pytest.raises(OSError, match="^--model: 'org/net' cannot be found or reached: .* Name another.$"):
        check_place("--model", "org/net", hint="Name another.")
    for kind in ("models", "datasets"):
        folder = unreachable / "cache" / f"{kind}--org--net"
        folder.mkdir(parents=True)
        check_place("--model", "org/net")
        folder.rmdir()
    monkeypatch.setattr(_places, "_is_hub_reached", lambda: True)
    check_place("--model", "org/net")
    check_place("--model", "gpt2")


def test_what_datasets_keeps_is_cached_too(unreachable, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", unreachable / "tables")
    with pytest.raises(OSError, match="cannot be found or reached"):
        check_place("--dataset", "org/set")
    (unreachable / "tables" / "org___set").mkdir(parents=True)
    check_place("--dataset", "org/set")


@pytest.mark.parametrize(
    "endpoint, port", [("https://hub", 443), ("http://hub", 80), ("https://hub:8443/x", 8443), ("ftp://hub", 443)]
)
def test_the_hub_is_looked_for_at_its_address_unless_there_is_another_way(monkeypatch, endpoint, port):
    asked = []

    def connect(address, timeout):
        asked.append((address, timeout))
        return nullcontext()

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_places, "getproxies", lambda: {"https": "proxy"})
    assert _places._is_hub_reached() and not asked, "a proxy knows the way"
    monkeypatch.setattr(_places, "getproxies", dict)
    assert _places._is_hub_reached() and asked == [(("hub", port), _places.PATIENCE)]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _places._is_hub_reached() and len(asked) == 1, "the client says so at once"


def test_what_can_only_be_here_is_refused_with_what_is_near(unreachable):
    (unreachable / "nets" / "ghostnet").mkdir(parents=True)
    with pytest.raises(OSError, match="there is no folder or file 'nets/ghostnot'; nearest: nets/ghostnet.$"):
        check_place("--model", "nets/ghostnot")  # its first part is a folder here
    for name in ("a/b/c", "./x", "x y", "a" * 300):
        with pytest.raises(OSError, match=f"^--model: there is no folder or file '{name}'. Or so.$"):
            check_place("--model", name, hint="Or so.")


def test_a_revision_goes_with_what_is_not_here(unreachable, monkeypatch):
    (unreachable / "net").mkdir()
    check_place("--model", "net", revision=("--revision", None))
    with pytest.raises(ValueError, match="^--revision: got 'v1', but --model net lies here"):
        check_place("--model", "net", revision=("--revision", "v1"))
    monkeypatch.setattr(_places, "_is_hub_reached", lambda: True)
    check_place("--model", "org/net", revision=("--revision", "v1"))
