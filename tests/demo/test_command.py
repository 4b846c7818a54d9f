"""`hf-effmodels demo` and the Spaces it writes."""

import json
import shutil
import socket
from urllib.request import urlopen

import pytest
import yaml
from PIL import Image

from hf_effmodels.cli import main
from hf_effmodels.hub import export, publish, space
from hf_effmodels.hub.space import publish_space, write_space

from ..hub.conftest import hub, online  # noqa: F401

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hf_effmodels[demo]'")


def test_the_app_is_served_on_this_machine_only(models, monkeypatch, capsys):
    import gradio

    seen = {}

    def instead_of_waiting(app):
        seen["page"] = urlopen(app.local_url).read().decode()
        seen["host"], seen["port"] = app.server_name, app.server_port
        app.close(verbose=False)

    monkeypatch.setattr(gradio.Blocks, "block_thread", instead_of_waiting)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["demo", str(models["image-classification"]), "--port", str(port)]) == 0
    assert (seen["host"], seen["port"]) == ("127.0.0.1", port) and "gradio" in seen["page"]
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out


def test_what_is_wrong_is_said_before_anything_is_served(models, tmp_path, capsys):
    model = str(models["image-classification"])
    (tmp_path / "empty").mkdir()
    for argv, message in [
        (("./nowhere",), "MODEL: there is no folder or file './nowhere'"),
        ((model, "--port", "70000"), "--port: got 70000, accepted are 0 (a free one) to 65535"),
        ((model, "--task", "x"), "--task: got 'x', accepted are image-classification, "),
        ((model, "--task", "text-generation"), "is for image-classification, not for text-generation"),
        ((model, "--examples", str(tmp_path / "empty")), "--examples: there are no images in"),
        ((model, "--device", "tpu9"), "--device: got 'tpu9'"),
        ((model, "--space", str(tmp_path / "space")), "--space: a Space shows a model on the Hub: MODEL is its"),
    ]:
        assert main(["demo", *argv]) == 2, argv
        assert message in capsys.readouterr().err, argv


def test_a_space_has_the_file_that_is_run_here_and_pins_everything(
    hub,  # noqa: F811
    online,  # noqa: F811
    tiny,
    models,
    tmp_path,
    monkeypatch,
):
    folder = export(tiny.model, tiny.processor, tmp_path / "model", license="mit")
    oid = publish(folder, "org/net", token="maker", endpoint=hub.url).oid
    secret = tmp_path / "own.jpg"
    picture = Image.new("RGB", (8, 6), "red")
    exif = picture.getexif()
    exif[315] = "somebody's name"
    picture.save(secret, exif=exif)
    publish_space("org/net", token="maker", endpoint=hub.url, examples=[secret])
    files = hub.files("spaces/org/net")
    assert files.keys() == {
        "app.py", "images.py", "texts.py", "demo.json", "requirements.txt", "README.md", "examples/1.jpg"
    }  # fmt: skip
    from hf_effmodels import images, texts
    from hf_effmodels.demo import app

    for name, module in (("app.py", app), ("images.py", images), ("texts.py", texts)):
        with open(module.__file__, "rb") as file:
            assert files[name] == file.read()
    assert json.loads(files["demo.json"]) == {
        "model": "org/net", "task": "image-classification", "revision": oid, "trust_remote_code": True,
        "examples": ["examples/1.jpg"],
    }  # fmt: skip
    pins = dict(line.split("==") for line in files["requirements.txt"].decode().split())
    facts = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert pins["gradio"] == facts["sdk_version"] and {"torch", "transformers"} <= pins.keys()
    assert (facts["sdk"], facts["app_file"], facts["models"], facts["license"]) == (
        "gradio", "app.py", ["org/net"], "mit"
    )  # fmt: skip
    assert b"somebody" not in files["examples/1.jpg"]
    # A second time there is nothing new; the folder that is written is the same but for its pictures.
    assert len(hub.repos["spaces/org/net"].commits) == 2
    publish_space("org/net", token="maker", endpoint=hub.url, examples=[secret])
    assert len(hub.repos["spaces/org/net"].commits) == 2
    package = tmp_path / "hf_effmodels"
    shutil.copytree(space._PACKAGE / "demo", package / "demo")
    for name in ("images.py", "texts.py"):
        shutil.copy(space._PACKAGE / name, package)
    bundled = sorted(path.name for path in (package / "demo" / "examples").iterdir())
    for name in ("id_rsa", ".env", "token.txt", "mine.py", "photo.jpg"):
        (package / "demo" / "examples" / name).write_text("secret")
    (package / "demo" / "examples" / "link.jpg").symlink_to(secret)
    monkeypatch.setattr(space, "_PACKAGE", package)
    (tmp_path / "space").mkdir()
    written = write_space("org/net", tmp_path / "space", endpoint=hub.url)
    assert sorted(path.name for path in (written / "examples").iterdir()) == bundled
    for name in ("id_rsa", ".env", "code.py"):
        (tmp_path / name).write_text("secret")
        with pytest.raises(ValueError, match=f"examples: .*{name}"):
            publish_space("org/net", token="maker", endpoint=hub.url, examples=[tmp_path / name])
    with pytest.raises(ValueError, match="token: it has characters that no token has"):
        write_space("org/net", tmp_path / "other", token="mak\ner", endpoint=hub.url)
    assert (written / "app.py").read_bytes() == files["app.py"] and (written / "examples" / "cat.jpg").is_file()
    # What the file reads there makes an app, of the model's folder for want of a way to the Hub.
    settings = json.loads((written / "demo.json").read_text()) | {"model": str(folder), "revision": None}
    assert app.build(**settings).config["title"] == "model"


def test_a_model_without_an_app_gets_no_space(hub, online):  # noqa: F811
    from huggingface_hub import HfApi

    HfApi(endpoint=hub.url, token="maker").create_repo("org/other")
    with pytest.raises(ValueError, match="org/other is for no known task, accepted are models of this package for"):
        publish_space("org/other", token="maker", endpoint=hub.url)
    assert "spaces/org/other" not in hub.repos
