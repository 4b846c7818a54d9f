"""`--push_to_hub` publishes the finished model, to the real client's liking, and nothing else of the output folder."""

import types
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file

from hf_effmodels.hub import export
from hf_effmodels.training import main
from hf_effmodels.training.run import publishing
from hf_effmodels.training.run.publishing import HUB_FOLDER, find_repository, is_own, publish_run

from ...hub.conftest import maker_hub, onto_the_network
from ..tasks.image_classification.test_image_classification import GHOSTNET

TOKEN = "hf_makers-secret"
PUSH = ["--push_to_hub", "true", "--hub_model_id", "net", "--license", "mit"]
FOREIGN = {
    "id_rsa": b"PRIVATE KEY",
    "notes.txt": b"mine",
    "token": TOKEN.encode(),
    "modeling_theirs.py": b"import os",
    "other/config.json": b"{}",
    "optimizer.pt": b"PK",
}


@pytest.mark.parametrize(
    "package, config, expected",
    [
        ("hf_effmodels.modeling", {"model_type": "ghostnet"}, True),
        ("transformers.models", {"model_type": "resnet"}, False),
        ("hf_effmodels.modeling", {"model_type": "coded_classifier", "network": {"model_type": "resnet"}}, True),
        ("hf_effmodels.modeling", {"model_type": "coded_classifier", "network": {"model_type": "mine"}}, False),
    ],
)
def test_a_folder_for_the_hub_is_made_of_models_whose_code_is_here_or_of_transformers(package, config, expected):
    """Also of one that is made around a network of transformers, not of one around code of somebody else's."""
    model = type("Model", (), {"__module__": f"{package}.net", "config": types.SimpleNamespace(**config)})()
    assert is_own(model) is expected


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with maker_hub() as server:
        onto_the_network(monkeypatch, tmp_path)
        server.tokens[TOKEN] = server.tokens["maker"]
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize("own", [True, False])
def test_the_finished_model_is_published_and_nothing_else_is(hub, digits_run, tmp_path, own):
    output = tmp_path / "run"
    for name, content in FOREIGN.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(content)
    arguments = [*digits_run, *(GHOSTNET if own else []), *PUSH, "--hub_token", TOKEN, "--num_train_epochs", "1"]
    main([*arguments, "--output_dir", str(output)])
    published = hub.files("maker/net")
    needed = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    needed |= {"training_curve.png", "confusion_matrix.png", "calibration.png"}  # charts, and no pictures of the data
    assert needed <= published.keys()
    code = {name for name in published.keys() - needed if name.endswith(".py")}
    assert published.keys() == needed | code and bool(code) == own and "modeling_theirs.py" not in code
    assert len(hub.repos["maker/net"].commits) == 2  # the empty repository's own, and one of the finished model
    written = [path for path in output.rglob("*") if path.is_file() and path.relative_to(output) != Path("token")]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert not [name for name, content in published.items() if TOKEN.encode() in content]


@pytest.mark.parametrize(
    "changed, error, message",
    [
        (["--hub_token", "hf_nobody"], PermissionError, "the Hub does not know this token"),
        ([], PermissionError, "there is no token"),
        (["--hub_token", "hf_ab\ncd"], ValueError, "--hub_token: "),
        (["--hub_token", TOKEN, "--hub_strategy", "every_save"], ValueError, "--hub_strategy: got 'every_save'"),
    ],
)
def test_what_cannot_be_published_is_refused_before_it_is_trained(hub, digits_run, tmp_path, changed, error, message):
    with pytest.raises(error, match=message) as caught:
        main([*digits_run, *PUSH, *changed, "--output_dir", str(tmp_path / "run")])
    assert "hf_" not in str(caught.value)
    assert not (tmp_path / "run" / "training_config.yaml").exists() and "maker/net" not in hub.repos


@pytest.mark.parametrize("exported", [True, False])
def test_privacy_branch_and_message_are_those_asked_for(hub, tiny, tmp_path, exported):
    if exported:
        export(tiny.model, tiny.processor, tmp_path / HUB_FOLDER, license="mit")
    else:
        save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
        for name in ("additional_chat_templates/tool.jinja", "other/config.json", "other/tool.jinja"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("{}")
    options = {"token": TOKEN, "private": True, "revision": "dev", "message": "Of today"}
    address = publish_run(tmp_path, "org/net", exported=exported, **options)
    repo = hub.repos["org/net"]
    assert repo.private and address.startswith(f"{hub.url}/org/net/commit/")
    published = hub.files("org/net", "dev").keys()
    assert not hub.files("org/net", "main") and "model.safetensors" in published
    if not exported:  # of folders those that transformers reads
        needed = {"README.md", "config.json", "model.safetensors", "additional_chat_templates/tool.jinja"}
        assert published == needed
    assert any(request[0] == "POST" and "/commit/dev" in request[1] for request in hub.requests)
    assert repo.messages[repo.resolve("dev")] == "Of today"


def test_a_model_without_a_licence_is_not_published(digits_run, tmp_path):
    with pytest.raises(ValueError, match="--push_to_hub: --license is missing"):
        main([*digits_run, "--push_to_hub", "true", "--output_dir", str(tmp_path / "run")])


def test_a_repository_is_named_after_the_account_and_the_folder(hub):
    assert find_repository(None, Path("outputs/digits"), TOKEN) == "maker/digits"
    assert find_repository("net", Path("outputs/digits"), TOKEN) == "maker/net"
    assert find_repository("org/net", Path("outputs/digits"), TOKEN) == "org/net"
    for token in ("hf_ab\ncd", "hf_ab cd", "hf_äb"):
        with pytest.raises(PermissionError, match="characters in it that no token has") as caught:
            find_repository("net", Path("outputs/digits"), token)
        assert "hf_" not in str(caught.value)


def test_a_hub_that_cannot_say_whose_the_token_is_is_told(monkeypatch):
    def failing(error):
        def whoami(self):
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "whoami", whoami)

    for code, kind, said in (
        (500, ConnectionError, r"^--push_to_hub: the Hub cannot be asked whose the token is \(ill\).$"),
        (403, PermissionError, "^--push_to_hub: the Hub does not know this token.$"),
        (401, PermissionError, "^--push_to_hub: the Hub does not know this token.$"),
    ):
        response = types.SimpleNamespace(status_code=code, headers={}, request=None)
        failing(HfHubHTTPError("ill", response=response))
        with pytest.raises(kind, match=said):
            find_repository("net", Path("out"), TOKEN)
    failing(OSError("no route"))
    with pytest.raises(ConnectionError, match=r"^--push_to_hub: the Hub cannot be reached \(no route\).$"):
        find_repository("net", Path("out"), TOKEN)


def test_a_token_that_the_machine_keeps_is_taken_and_without_one_it_is_said(monkeypatch):
    seen = []
    monkeypatch.setattr(publishing, "get_token", lambda: "hf_kept")
    monkeypatch.setattr(publishing, "HfApi", lambda token: seen.append(token) or FakeHub())
    assert find_repository("net", Path("out"), None) == "me/net"
    assert find_repository(None, Path("runs/out"), "hf_given") == "me/out" and seen == ["hf_kept", "hf_given"]
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    with pytest.raises(PermissionError, match="^--push_to_hub: there is no token; run `hf auth login`, set HF_TOKEN"):
        find_repository("net", Path("out"), None)


class FakeHub:
    def whoami(self):
        return {"name": "me"}
