"""What `hf-effmodels demo` asks of the app; gradio itself is not needed for it."""

import json
import socket
import sys
from types import SimpleNamespace

import pytest

from hf_effmodels.cli import main
from hf_effmodels.demo import command


@pytest.fixture
def launched(monkeypatch):
    calls = []
    app = SimpleNamespace(block_thread=lambda: calls.append("waits"))

    def launch(app, **options):
        calls.append(options)
        return None, "http://here", None

    monkeypatch.setattr(command, "open_app", lambda source, **options: calls.append((source, options)) or app)
    monkeypatch.setitem(sys.modules, "hf_effmodels.demo.app", SimpleNamespace(launch=launch))
    return calls


def test_the_app_is_served_where_and_how_it_is_asked_for(launched, capsys):
    assert main(["demo", "out"]) == 0
    (source, options), where, waits = launched
    assert (source.name, source.trust_remote_code) == ("out", False) and waits == "waits"
    assert options == {"task": None, "device": None, "examples": None}
    plain = {"prevent_thread_lock": True, "inbrowser": False, "quiet": True}
    assert where == {"server_name": "127.0.0.1", "server_port": None, **plain}  # gradio looks for the next free one
    said = capsys.readouterr()
    assert said.out == "http://here    (Ctrl+C ends it)\n" and not said.err
    launched.clear()
    more = ["--open", "--task", "text-generation", "--revision", "r"]
    assert main(["demo", "out", "--host", "0.0.0.0", "--port", "81", *more]) == 0
    (source, options), where, _ = launched
    assert source.revision == "r" and options["task"] == "text-generation"
    assert (where["server_name"], where["server_port"], where["inbrowser"]) == ("0.0.0.0", 81, True)
    assert "whoever reaches 0.0.0.0 can use the model" in capsys.readouterr().err
    assert main(["demo", "out", "--host", "192.0.2.5"]) == 0
    assert "whoever reaches 192.0.2.5 can use the model" in capsys.readouterr().err


def test_port_zero_is_one_that_is_free(launched):
    assert main(["demo", "out", "--port", "0"]) == 0
    port = launched[1]["server_port"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
    assert port > 0 and main(["demo", "out", "--port", "-1"]) == main(["demo", "out", "--port", "65536"]) == 2


def test_an_app_is_called_as_the_folder_or_the_repository_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command._title(".") == tmp_path.name and command._title("org/net/") == "net"


@pytest.mark.parametrize(
    "words",
    [["--task", "text-generation"], ["--device", "cpu"], ["--host", "0.0.0.0"], ["--port", "81"], ["--open"],
     ["--trust-remote-code"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_what_serving_alone_has_a_use_for_does_not_go_with_a_space(words, monkeypatch, capsys):
    monkeypatch.setattr("hf_effmodels.hub.space.write_space", lambda *_, **__: pytest.fail("it is written"))
    assert main(["demo", "you/net", "--space", "folder", *words]) == 2
    assert f"--space: does not go with {words[0]}: nothing is served." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cls", "./cls", "a/b/c"])
def test_a_model_that_no_space_can_load_is_refused_for_that(name, monkeypatch, capsys):
    monkeypatch.setattr("hf_effmodels.hub.space.write_space", lambda *_, **__: pytest.fail("it is written"))
    assert main(["demo", name, "--space", "folder"]) == 2
    said = capsys.readouterr().err
    assert f"--space: a Space shows a model on the Hub: MODEL is its 'namespace/name', got {name!r}; hf-eff" in said


@pytest.mark.parametrize(
    "files, said",
    [
        ({"export.json": {"export_format": "onnx"}}, "edge is an exported program; give the model that was exported."),
        ({"config.json": {"model_type": "bert", "architectures": ["BertForMaskedLM"]}}, "predictions are made for"),
        ({"config.json": {"model_type": "vit", "architectures": ["ViTModel"]}}, "is for "),
    ],
)
def test_what_has_no_app_is_refused_by_its_files_alone(files, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "open_app", lambda *_, **__: pytest.fail("it is loaded"))
    (tmp_path / "edge").mkdir()
    for name, content in files.items():
        (tmp_path / "edge" / name).write_text(json.dumps(content))
    assert main(["demo", "edge"]) == 2
    assert said in capsys.readouterr().err


def test_a_spaces_folder_is_of_the_revision_and_with_the_pictures_that_are_given(tmp_path, monkeypatch, capsys):
    for name in ("b.png", "a.jpg"):
        (tmp_path / name).touch()
    asked = []
    monkeypatch.setattr(
        "hf_effmodels.hub.space.write_space", lambda *given, **how: asked.append((given, how)) or "done"
    )
    more = ["--revision", "v2", "--token", "mine", "--examples", str(tmp_path)]
    assert main(["demo", "you/net", "--space", "folder"]) == main(["demo", "you/net", "--space", "folder", *more]) == 0
    pictures = [str(tmp_path / name) for name in ("a.jpg", "b.png")]
    assert asked == [
        (("you/net", "folder"), {"revision": None, "token": None, "examples": None}),
        (("you/net", "folder"), {"revision": "v2", "token": "mine", "examples": pictures}),
    ]
    assert capsys.readouterr().out == "done\n" * 2
