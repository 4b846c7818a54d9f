"""The published weights of a preset in one step, from a file server and the Hub of the loopback interface."""

import hashlib
import http.server
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_effmodels
from hf_effmodels.cli import main
from hf_effmodels.hub import download as web
from hf_effmodels.hub import pretrained
from hf_effmodels.hub.convert import convert
from hf_effmodels.hub.pretrained import Weights, _key, sources
from hf_effmodels.registry import ARCHITECTURES, all_entries

from ..parity import golden
from .server import File, Repo

CASE = Path(__file__).parents[1] / "parity" / "cases" / "ghostnet" / "w050_72x88.json"
PRESET = "ghostnet-0.5x"
PIXELS = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


class Files(http.server.BaseHTTPRequestHandler):
    """What `files` says: bytes, or (bytes, length that is told), or a status."""

    files: dict = {}  # noqa: RUF012
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        self.asked.append(self.path)
        found = self.files.get(self.path, 404)
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, int):
            self.send_error(found)
            return
        content, length = found if isinstance(found, tuple) else (found, len(found))
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The official file, and the logits of the model that it gives."""
    folder = tmp_path_factory.mktemp("official")
    weights = golden.state_dict(golden.load(CASE), torch.float32)
    torch.save(weights, folder / "net.pth")
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    convert(PRESET, folder / "net.pth", folder / "out")
    model = hf_effmodels.GhostNetForImageClassification.from_pretrained(folder / "out").eval()
    with torch.no_grad():
        return (folder / "net.pth").read_bytes(), (folder / "model.safetensors").read_bytes(), model(PIXELS).logits


@pytest.fixture
def server(monkeypatch, tmp_path, online):
    """A file server, a cache, and what makes a preset's weights lie there."""
    monkeypatch.setenv("HF_EFFMODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Files, "files", {})
    monkeypatch.setattr(Files, "asked", [])
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    presets = ARCHITECTURES["ghostnet"].configuration_module.PRESETS

    def publish(path: str, **known) -> str:
        address = f"http://127.0.0.1:{running.server_address[1]}{path}"
        changed = {
            "weights": address,
            "weights_license": "apache-2.0",
            "weights_license_note": "as timm says",
            **known,
        }
        monkeypatch.setitem(presets, PRESET, replace(presets[PRESET], **changed))
        return address

    yield publish
    running.shutdown()
    running.server_close()


@torch.no_grad()
def logits(**options) -> torch.Tensor:
    return hf_effmodels.create_model(PRESET, pretrained=True, **options)(PIXELS).logits


def test_weights_come_by_one_argument_and_from_then_on_without_network(server, official, monkeypatch, tmp_path):
    file, _, expected = official
    Files.files["/net.pth"] = file
    server("/net.pth", weights_sha256=hashlib.sha256(file).hexdigest())
    weights = sources(PRESET)[0]
    (tmp_path / "cache" / PRESET / f"official-{_key(weights)}").mkdir(parents=True)  # empty, it holds no weights
    assert torch.equal(logits(), expected) and not torch.equal(
        hf_effmodels.create_model(PRESET)(PIXELS).logits, expected
    )
    assert Files.asked == ["/net.pth"]
    Files.files.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(logits(), expected) and Files.asked == ["/net.pth"]
    model = hf_effmodels.create_model(PRESET, pretrained=True)
    assert not model.training and model.config.id2label[417] == "balloon"


def test_another_number_of_labels_begins_with_a_new_head_and_nothing_else_may_differ(server, official):
    Files.files["/net.pth"] = official[0]
    server("/net.pth")
    whole = hf_effmodels.create_model(PRESET, pretrained=True)
    few = hf_effmodels.create_model(PRESET, pretrained=True, num_labels=3)
    assert few(PIXELS).logits.shape == (1, 3)
    for name, value in whole.state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(few.state_dict()[name], value), name
    features = hf_effmodels.create_model(PRESET, pretrained=True, task="image-feature-extraction")
    with torch.no_grad():
        assert torch.equal(features(PIXELS).pooler_output, whole.base_model(PIXELS).pooler_output)
    wider = {"width_multiplier": 0.75}
    for change in (wider, {**wider, "num_labels": 3}, {"num_conv_branches": 1}, {"num_channels": 1}):
        with pytest.raises(ValueError, match=f"pretrained: the published weights of {PRESET} do not fit"):
            hf_effmodels.create_model(PRESET, pretrained=True, **change)
    with pytest.raises(ValueError, match="source: got 'timm', but it goes with pretrained=True"):
        hf_effmodels.create_model(PRESET, source="timm")


def test_published_weights_that_lack_some_of_the_network_are_refused_whatever_the_head(tmp_path, monkeypatch):
    whole = hf_effmodels.create_model(PRESET, num_labels=3)
    whole.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if name.startswith("ghostnet.") and name.endswith("weight"))
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    monkeypatch.setattr("hf_effmodels.hub.pretrained", lambda name, source: tmp_path)
    # Its own class, the network in it, and what is published with another head.
    for saved, task in (
        ("GhostNetForImageClassification", "image-classification"),
        ("GhostNetForImageClassification", "image-feature-extraction"),
        ("GhostNetModel", "image-classification"),
    ):
        whole.config.architectures = [saved]
        whole.config.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"pretrained: the published weights of {PRESET} do not fit"):
            hf_effmodels.create_model(PRESET, pretrained=True, task=task, num_labels=3)


def test_a_published_head_of_as_many_labels_fits_or_is_refused(tmp_path, monkeypatch):
    """Beginning with a new one is for another number of labels alone."""
    whole = hf_effmodels.create_model(PRESET, num_labels=3)
    whole.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"][:, 1:].contiguous()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr("hf_effmodels.hub.pretrained", lambda name, source: tmp_path)
    with pytest.raises(ValueError, match=f"weights of {PRESET} do not fit this configuration; classifier.weight is"):
        hf_effmodels.create_model(PRESET, pretrained=True, num_labels=3)
    assert hf_effmodels.create_model(PRESET, pretrained=True, num_labels=4).classifier.weight.shape[0] == 4


def test_weights_that_were_published_folded_make_a_folded_model(tmp_path, monkeypatch):
    folded = hf_effmodels.create_model(PRESET, num_labels=3).reparameterize()
    folded.save_pretrained(tmp_path)
    monkeypatch.setattr("hf_effmodels.hub.pretrained", lambda name, source: tmp_path)
    model = hf_effmodels.create_model(PRESET, pretrained=True, num_labels=3)
    assert model.config.reparameterized and not model.training
    found, expected = model.state_dict(), folded.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_timms_repository_is_read_by_the_hubs_client(server, official, hub, monkeypatch, tmp_path, caplog):
    _, file, expected = official
    server("/nothing.pth", timm="ghostnet_050.in1k")
    repo = hub.repos["timm/ghostnet_050.in1k"] = Repo()
    digest = hashlib.sha256(file).hexdigest()
    hub.lfs[digest] = file
    repo.commit("main", {"model.safetensors": File(file, digest)}, "weights")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    original = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *a, **k: original(*a, endpoint=hub.url, cache_dir=tmp_path / "hub", **k),
    )
    assert [(w.source, w.place.rpartition("/")[2]) for w in sources(PRESET)] == [
        ("official", "nothing.pth"),
        ("timm", "ghostnet_050.in1k"),
    ]
    assert torch.equal(logits(source="timm"), expected) and Files.asked == []
    assert any(path.endswith("/model.safetensors") for _, path, _ in hub.requests)
    hub.repos.clear()
    assert torch.equal(logits(source="timm"), expected)  # kept
    with caplog.at_level("WARNING", "hf_effmodels"):
        assert torch.equal(logits(), expected) and Files.asked == []  # nothing else is fetched where they are
    assert f"{PRESET}: timm's weights, which are here; source='official' fetches" in caplog.text
    with pytest.raises(OSError, match=r"nothing\.pth cannot be downloaded"):
        logits(source="official")
    assert [folder.name.partition("-")[0] for folder in (tmp_path / "cache" / PRESET).iterdir()] == ["timm"]
    server("/nothing.pth", timm="nowhere.in1k")
    with pytest.raises(OSError, match="timm/nowhere.in1k cannot be read from the Hub"):
        logits(source="timm")


@pytest.mark.parametrize(
    "answer, message, asked",
    [
        (404, "/net.pth cannot be downloaded: 404 Not Found", 1),
        (503, "/net.pth cannot be downloaded: 503 Service Unavailable", 3),
        ((b"half", 8), "/net.pth cannot be downloaded .3 attempts.: it broke off after 4 of 8 bytes", 3),
        (
            b"other",
            f"/net.pth is another file than expected: its SHA-256 is {hashlib.sha256(b'other').hexdigest()}",
            1,
        ),
    ],
)
def test_what_goes_wrong_on_the_way_is_said_and_leaves_nothing(server, tmp_path, answer, message, asked):
    Files.files["/net.pth"] = answer
    server("/net.pth", weights_sha256="0" * 64)
    with pytest.raises(OSError, match=message):
        pretrained(PRESET)
    assert len(Files.asked) == asked
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_connection_that_breaks_once_is_tried_again(server, official):
    Files.files["/net.pth"] = [(official[0][:1000], len(official[0])), 500, official[0]]
    server("/net.pth")
    assert torch.equal(logits(), official[2]) and len(Files.asked) == 3


def test_without_network_it_says_so(server, monkeypatch):
    address = server("/net.pth")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=f"{address} is not here, and HF_HUB_OFFLINE forbids to fetch it"):
        pretrained(PRESET)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server("/net.pth", weights="http://127.0.0.1:9/net.pth")
    with pytest.raises(OSError, match="127.0.0.1:9/net.pth cannot be downloaded .3 attempts.: .*refused"):
        pretrained(PRESET)


def test_a_file_of_another_network_is_refused_and_not_kept_as_a_model(server, tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "wrong.pth")
    Files.files["/net.pth"] = (tmp_path / "wrong.pth").read_bytes()
    server("/net.pth")
    for _ in range(2):
        with pytest.raises(ValueError, match="is no checkpoint of ghostnet-0.5x"):
            pretrained(PRESET)
    assert not [*(tmp_path / "cache").rglob("config.json")]


def test_what_another_process_has_converted_meanwhile_is_taken(server, monkeypatch, tmp_path):
    module = sys.modules[pretrained.__module__]
    address, finished = server("/net.pth"), []
    monkeypatch.setattr(module, "download", lambda place, file, digest: Path(f"{place} as {file.name}"))

    def converting(preset, file, folder):
        assert (preset, str(file)) == (PRESET, f"{address} as net.pth".replace("//", "/"))
        if finished:
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
        raise FileExistsError(f"{folder} is there")

    monkeypatch.setattr(module, "convert", converting)
    with pytest.raises(FileExistsError, match="is there"):
        pretrained(PRESET)
    finished.append(True)
    folder = pretrained(PRESET)
    assert (folder / "config.json").exists() and folder.parent == tmp_path / "cache" / PRESET
    assert pretrained(PRESET) == folder and pretrained(PRESET, "official") == folder


def test_where_nothing_can_be_downloaded_it_says_where_the_weights_are_and_what_to_run():
    with pytest.raises(ValueError, match=f"{PRESET} are published nowhere .* with weights: ghostnet-1.0x"):
        pretrained(PRESET)
    with pytest.raises(ValueError, match="they are at https://github.com/.*hf-effmodels convert gold-yolo-n FILE"):
        pretrained("gold-yolo-n")
    with pytest.raises(ValueError, match="source: got 'x', accepted for tinynet-a are 'official', 'timm'"):
        pretrained("tinynet-a", "x")
    with pytest.raises(ValueError, match="srdiff-x4 is a diffusers pipeline"):
        hf_effmodels.create_model("srdiff-x4", pretrained=True)


def test_sources_of_presets_are_direct_addresses_and_timms_names():
    found = {}
    for entry in all_entries():
        for name in entry.presets if hasattr(entry, "auto_classes") else ():
            found |= {(name, weights.source): weights.place for weights in sources(name)}
    assert found["ghostnetv3-1.0x", "timm"] == "timm/ghostnetv3_100.in1k"
    assert found["tinynet-a", "timm"] == "timm/tinynet_a.in1k"
    assert found["tinyvit-21m-384", "timm"] == "timm/tiny_vit_21m_384.dist_in22k_ft_in1k"
    assert found["tinyvit-5m-22k", "timm"] == "timm/tiny_vit_5m_224.dist_in22k"
    assert (
        found["ghostnet-1.0x", "official"].startswith("https://github.com/")
        and "/raw/" in found["ghostnet-1.0x", "official"]
    )
    assert ("vig-s", "official") not in found and ("gold-yolo-n", "official") not in found
    assert all(place.startswith("https://") for (_, source), place in found.items() if source == "official")


def test_the_command_shows_the_licence_and_writes_a_folder(server, official, tmp_path, capsys):
    Files.files["/net.pth"] = official[0]
    server("/net.pth")
    assert main(["download", PRESET, str(tmp_path / "model"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"preset": PRESET, "folder": str(tmp_path / "model"), "license": "apache-2.0"}
    assert "licence of the weights: apache-2.0 (as timm says)" in err
    model = hf_effmodels.GhostNetForImageClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(model(PIXELS).logits, official[2])
    assert main(["download", PRESET, str(tmp_path / "model")]) == 2
    assert "FOLDER: " in capsys.readouterr().err
    assert main(["download", PRESET, "--source", "x"]) == 2
    assert "--source: got 'x', accepted are official and timm." in capsys.readouterr().err
    from PIL import Image

    Image.new("RGB", (80, 60), "red").save(tmp_path / "a.png")
    assert main(["predict", PRESET, str(tmp_path / "a.png"), "--json"]) == 0
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answer["classes"]) == 5 and not answer["classes"][0]["label"].startswith("LABEL")


def test_only_addresses_of_the_web_are_fetched(tmp_path):
    with pytest.raises(ValueError, match="url: got 'file:///etc/hostname', accepted are addresses that begin with"):
        web.download("file:///etc/hostname", tmp_path / "x")


def test_other_weights_and_those_of_another_version_are_converted_anew(monkeypatch):
    weights = Weights("official", "https://here/net.pth", "0")
    keys = {_key(weights), _key(replace(weights, place="https://there/net.pth")), _key(replace(weights, digest="1"))}
    monkeypatch.setattr(hf_effmodels, "__version__", "another")
    assert len(keys | {_key(weights)}) == 4
