import ast
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError

import pytest
from huggingface_hub import constants

from hf_effmodels import _places
from hf_effmodels._model_place import check_model
from hf_effmodels._places import check_place, first_line, no_data_set, reading

from . import package_source


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
        (_of_configuration(OSError("Error no file named model.safetensors")), "there are no weights in it"),
        (OSError("Error no file named pytorch_model.bin, model.safetensors found"), "there are no weights in it"),
        (OSError("Error no file named vocab.txt found"), "Error no file named vocab.txt found"),
        (
            RuntimeError("You set `ignore_mismatched_sizes` to `False`, thus raising an error.\na"),
            "its weights have other shapes than those of its config.json",
        ),
        (
            RuntimeError("We encountered some issues during automatic conversion of the weights. For details:\na"),
            "its weights cannot be put together: some of a group are lacking, or have other shapes",
        ),
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


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300, f"{'x' * 300}/a", "a\0b"], ids=["1", "2", "3", "4"])
def test_what_no_file_can_be_called_is_not_there(unreachable, name):
    with pytest.raises(OSError, match="^--model: there is no folder or file "):
        check_place("--model", name)


def test_what_a_user_says_is_looked_for_by_functions_that_take_any_text():
    """`Path.exists` and its like raise where a text is too long for the name of a file, those of `os.path` do not."""
    found = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for module, tree in package_source.trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("exists", "is_file", "is_dir")
        if isinstance(path := node.func.value, ast.Call) and getattr(path.func, "id", "") == "Path"
        if len(path.args) == 1 and not isinstance(path.args[0], ast.NamedExpr)  # names that we have made
    ]
    assert found == []


def test_a_revision_goes_with_what_is_not_here(unreachable, monkeypatch):
    (unreachable / "net").mkdir()
    check_place("--model", "net", revision=("--revision", None))
    with pytest.raises(ValueError, match="^--revision: got 'v1', but --model net lies here"):
        check_place("--model", "net", revision=("--revision", "v1"))
    monkeypatch.setattr(_places, "_is_hub_reached", lambda: True)
    check_place("--model", "org/net", revision=("--revision", "v1"))


@pytest.mark.parametrize(
    "files, said",
    [
        ({"config.json": "{}"}, None),
        ({"config.json": "{"}, "^--model: .*net/config.json is not valid JSON"),
        ({"config.json": "[" * 100_000}, "^--model: .*net/config.json is not valid JSON"),
        ({"config.json": "[1]"}, "^--model: .*net/config.json holds no mapping of settings.$"),
        ({"adapter_config.json": "{"}, None),
        ({"model_index.json": "{}"}, None),
        ({"tail/split.json": "{}"}, None),
        ({"a/b/config.json": "{}"}, "^--model: .*net is no model's folder: it has no config.json.$"),
        ({"notes.txt": "{}"}, "^--model: .*net is no model's folder"),
        ({}, "^--model: .*net is no model's folder"),
    ],
    ids=["whole", "broken", "deep", "a list", "an adapter", "a pipeline", "halves", "two below", "notes", "nothing"],
)
def test_a_folder_can_be_a_models_by_what_lies_in_it_or_one_below(files, said, tmp_path):
    (tmp_path / "net").mkdir()
    for name, text in files.items():
        (tmp_path / "net" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "net" / name).write_text(text)
    if said is None:
        check_model("--model", str(tmp_path / "net"), revision=("--revision", None))
    else:
        with pytest.raises(OSError, match=said):
            check_model("--model", str(tmp_path / "net"))
    with pytest.raises(ValueError, match="^--revision: got 'v1', but --model .*net lies here"):
        check_model("--model", str(tmp_path / "net"), revision=("--revision", "v1"))


def test_a_preset_is_a_preset_whatever_lies_beside_it(unreachable, monkeypatch):
    (unreachable / "ghostnet-1.0x").mkdir()
    check_model("--model", "ghostnet-1.0x", revision=("--revision", "v1"))
    with pytest.raises(OSError, match="cannot be found or reached"):
        check_model("--model", "ghostnet-9x")
    monkeypatch.setattr("hf_effmodels._model_place.names_in_source", lambda: None)
    check_model("--model", "ghostnet-9x")


def test_a_package_that_is_missing_is_named_with_what_needs_it(tmp_path):
    with pytest.raises(ImportError, match=f"^--model: {tmp_path} needs a package: pip install sentencepiece$"):
        with reading("--model", str(tmp_path)):
            raise PackageNotFoundError("sentencepiece")


def test_of_a_file_as_a_data_set_the_option_for_files_is_named():
    assert str(no_data_set("--dataset", "a.csv")) == (
        "--dataset: 'a.csv' is a file; accepted are a folder, an id of the Hub, and a format such as csv, json, "
        "parquet or imagefolder with --data_files a.csv."
    )
