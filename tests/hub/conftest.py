"""A loopback Hub, a tiny model of every kind needed, and a way to run a client in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

import hf_effmodels
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_fields
from .server import Account, Hub

LABELS = {0: "cat", 1: "dog", 2: "owl"}
STAGES = (((3, 8, 8, 0, 1),), ((3, 16, 12, 0, 2),), ((5, 24, 16, 0.25, 2),))


@pytest.fixture(scope="session")
def tiny():
    """A tiny classifier with names for its labels, its image processor, an input and the logits for it."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES["ghostnetv3"]
    # Loading takes transformers a millisecond for each tensor: even fewer layers than the common tests have.
    small = {**tiny_fields(architecture), "stages": STAGES, "num_conv_branches": 2}
    config = architecture.config_class(**small, id2label=LABELS, label2id={n: i for i, n in LABELS.items()})
    model = architecture.model_class("AutoModelForImageClassification")(config).eval()
    processor = hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_size=64)
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        logits = model(pixels).logits[0].tolist()
    return SimpleNamespace(architecture=architecture, model=model, processor=processor, pixels=pixels, logits=logits)


@contextmanager
def maker_hub() -> Iterator[Hub]:
    with Hub() as server:
        server.tokens["maker"] = Account("maker", orgs={"org"})
        server.tokens["reader"] = Account("reader", role="read", orgs={"org"})
        yield server


@pytest.fixture
def hub():
    with maker_hub() as server:
        yield server


def onto_the_network(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """This process may reach the network (the loopback Hub), without a token of the machine's user."""
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)


@pytest.fixture
def online(monkeypatch, tmp_path):
    onto_the_network(monkeypatch, tmp_path)


@pytest.fixture
def impatient(monkeypatch):
    """The client's pauses between its attempts take no time; returns them."""
    pauses = []
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", pauses.append)
    return pauses


def run_client(name: str, arguments: dict, *, home: Path, hub: Hub | None, **environment) -> dict:
    """Run tests/hub/<name>.py in a fresh process with caches under `home`; what it printed last, decoded."""
    environment = {
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        **({"HF_ENDPOINT": hub.url} if hub else {}),
        **environment,
    }
    home.mkdir(parents=True, exist_ok=True)
    removed = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_MODULES_CACHE", "PYTHONHASHSEED"}
    inherited = {key: value for key, value in os.environ.items() if key not in removed}
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", str(Path(__file__).with_name(f"{name}.py"))],
        input=json.dumps(arguments),
        env=inherited | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}
