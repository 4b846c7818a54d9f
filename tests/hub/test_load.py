"""What users do with a published model: load it, with our package and without it, online, pinned and offline."""

import copy
import tempfile
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    ResNetConfig,
    ResNetForImageClassification,
    pipeline,
)

from hf_effmodels.collaboration.codecs.wire import UniformCodec
from hf_effmodels.collaboration.splitting import split
from hf_effmodels.hub import export, publish
from hf_effmodels.hub.halves import export_half
from hf_effmodels.quantization import (
    BitNet158Config,
    BiVitConfig,
    CbqConfig,
    convert_to_bitlinear,
    convert_to_bivit,
    quantize_adder,
)
from hf_effmodels.registry import ARCHITECTURES

from ..modeling import test_light_clip as light_clip
from ..modeling.tiny import tiny_config
from .client import detect
from .conftest import LABELS, maker_hub, onto_the_network, run_client

EXPECTED = {
    "labels": sorted(LABELS.values()),
    "same_base": True,
    "reparameterized": False,
    "feature_maps": [[1, 8, 32, 32], [1, 16, 8, 8]],
}
#: How the weights of an architecture are packed, and loaded without this package all the same.
PACKED = {
    "adabin": lambda model: model.deploy(),
    "bimlp": lambda model: model.deploy(),
    "addernet": lambda model: quantize_adder(model, [torch.rand(2, 3, 64, 64)], bits=4, n_groups=2),
    "tinyvit": lambda model: in_three_bits(model),
    "cmt": lambda model: convert_to_bitlinear(model, BitNet158Config(scale="median")),
    "devit": lambda model: convert_to_bivit(model, BiVitConfig(attention=False, binary_inputs=True)),
}
CLASSES = ["GhostNetV3Config", "ConvNextImageProcessor", "GhostNetV3ForImageClassification", "GhostNetV3Model"]


def in_three_bits(model):
    """CBQ's own format, as `from_pretrained` makes it of a dense checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = CbqConfig(method="rtn", bits=3, group_size=8)
        return type(model).from_pretrained(folder, quantization_config=config).eval()


@pytest.fixture(scope="module")
def published(tiny, tmp_path_factory):
    """A Hub with org/net, its folded form org/folded, and org/private; the folder and the commit of org/net."""
    folder = tmp_path_factory.mktemp("published") / "model"
    export(tiny.model, tiny.processor, folder, license="apache-2.0", dataset="digits", results={"accuracy": 0.5})
    folded = copy.deepcopy(tiny.model).reparameterize()
    with maker_hub() as hub, pytest.MonkeyPatch.context() as patch:
        onto_the_network(patch, folder.parent)
        to_hub = {"token": "maker", "endpoint": hub.url}
        commit = publish(folder, "org/net", **to_hub)
        publish(folded, "org/folded", processor=tiny.processor, license="mit", **to_hub)
        publish(folder, "org/private", private=True, **to_hub)
        yield SimpleNamespace(hub=hub, folder=folder, commit=commit.oid)


def test_with_the_package_a_cold_cache_loads_without_questions_or_remote_code(tiny, published, tmp_path):
    card = {"license": "apache-2.0", "dataset": "digits", "results": {"accuracy": 0.5}}
    asked = {"repo_id": "org/net", "revision": published.commit, "again": str(tmp_path / "again"), "card": card}
    found = run_client("with_package", asked, home=tmp_path / "cache", hub=published.hub, PYTHONHASHSEED="77")
    assert found["logits"] == pytest.approx(tiny.logits, abs=1e-6)
    assert {key: found[key] for key in EXPECTED} == EXPECTED
    assert [name.removesuffix("Pil") for name in found["classes"]] == CLASSES
    assert found["modules"] == ["hf_effmodels"] and found["remote_code"] == []
    assert found["revision_class"].startswith("hf_effmodels.")  # even with trust_remote_code=True
    assert found["snippets"] == found["local_snippets"] == 2
    assert found["private"] is False
    assert found["pushed"] == {"logits": found["logits"], "labels": EXPECTED["labels"]}
    assert "not supported" not in found["stderr"]
    # Loaded from the Hub and exported again, with another hash seed: byte for byte the folder that was published.
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in published.folder.iterdir()}


@pytest.fixture
def others(tiny, tmp_path):
    """A tiny classifier of every other architecture as an exported folder, and its logits for a flat image; binary and
    adder networks also with their weights packed."""
    made = {}
    for model_type, architecture in ARCHITECTURES.items():
        if model_type != "ghostnetv3" and "AutoModelForImageClassification" in architecture.auto_classes:
            config = tiny_config(architecture, num_labels=2)
            model = architecture.model_class("AutoModelForImageClassification")(config).eval()
            with torch.no_grad():
                logits = model(torch.full((1, 3, 64, 64), 0.5)).logits[0].tolist()
            made[model_type] = (export(model, tiny.processor, tmp_path / model_type), logits)
            if pack := PACKED.get(model_type):
                model = pack(model) or model
                with torch.no_grad():
                    logits = model(torch.full((1, 3, 64, 64), 0.5)).logits[0].tolist()
                made[f"{model_type}-packed"] = (export(model, tiny.processor, tmp_path / f"{model_type}-p"), logits)
    return made


@pytest.fixture
def detector(tmp_path):
    """A tiny detector, whose image processor is this package's own, as an exported folder."""
    architecture = ARCHITECTURES["gold_yolo"]
    model = architecture.model_class("AutoModelForObjectDetection")(tiny_config(architecture, num_labels=2)).eval()
    processor = architecture.image_processor_class("pil")(size={"height": 64, "width": 64})
    return export(model, processor, tmp_path / "detector")


@pytest.fixture
def two_towers(tmp_path):
    """A tiny zero-shot classifier, still with what trains it, as an exported folder."""
    return export(light_clip.build(), light_clip.processor(), tmp_path / "two-towers")


@pytest.fixture
def halves(tmp_path):
    """Head and tail of a network of transformers, of one of this package and of those with a code, with what loads
    them, and the logits."""
    config = ResNetConfig(embedding_size=6, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic", num_labels=2)
    ours = ARCHITECTURES["ghostnetv3"]
    made, cut = {}, {}
    for name, model in (
        ("resnet", ResNetForImageClassification(config)),
        ("ours", ours.model_class("AutoModelForImageClassification")(tiny_config(ours, num_labels=2))),
    ):
        cut[name] = split(model.eval(), "stages.0", codec=UniformCodec(8), image_size=(64, 64))
    for model_type in ("coded_classifier", "channel_coded_classifier"):
        coded = ARCHITECTURES[model_type]
        model = coded.model_class("AutoModelForImageClassification")(tiny_config(coded, num_labels=2)).eval()
        model.fix_code()
        cut[model_type] = model.halves()
    for name, parts in cut.items():
        for half in parts:
            export_half(half, tmp_path / name / half.half)
        pixels = torch.linspace(-1, 1, 3 * 64**2).reshape(1, 3, 64, 64)
        folders = [str(tmp_path / name / half.half) for half in parts]
        made[name] = [*folders, 64, parts[1](parts[0](pixels), (1, 3, 64, 64))[0].tolist()]
    return made


@pytest.fixture
def dense(tiny, tmp_path):
    """Tiny models that answer with maps, as exported folders: Auto class, folder, further inputs and the answer."""
    made = {}
    for model_type, auto, name in (
        ("tinysam", "AutoModelForMaskGeneration", "pred_masks"),
        ("dtop", "AutoModelForSemanticSegmentation", "logits"),
    ):
        model = ARCHITECTURES[model_type].model_class(auto)(tiny_config(ARCHITECTURES[model_type])).eval()
        side = getattr(model.config, "vision_config", model.config).image_size
        given = {"input_points": [[[[10.0, 12.0]]]]} if model_type == "tinysam" else {}
        with torch.no_grad():
            tensors = {key: torch.tensor(value) for key, value in given.items()}
            answer = model(pixel_values=torch.linspace(-1, 1, 3 * side**2).reshape(1, 3, side, side), **tensors)[name]
        folder = export(model, tiny.processor, tmp_path / model_type)
        made[model_type] = [auto, str(folder), side, given, name, answer.flatten().tolist()]
    return made


def test_without_the_package_a_pinned_revision_loads_with_trust_and_then_offline(
    tiny, published, others, detector, two_towers, dense, halves, tmp_path
):
    pinned = {"revision": published.commit}
    asked = {
        "load": {"pinned": ("org/net", pinned), "folded": ("org/folded", {}), "folder": (str(published.folder), {})},
        "untrusted": "org/net",
        "copy": ("org/net", str(tmp_path / "copy")),
        "others": {name: str(folder) for name, (folder, _) in others.items()},
        "detector": str(detector),
        "two_towers": str(two_towers),
        "halves": {name: entry[:-1] for name, entry in halves.items()},
        "dense": {model_type: entry[:-1] for model_type, entry in dense.items()},
        "readme": published.hub.files("org/net")["README.md"].decode(),
    }
    published.hub.requests.clear()
    found = run_client("without_package", asked, home=tmp_path / "cache", hub=published.hub)
    assert found["package"] == []
    for name in ("pinned", "folded", "folder"):
        loaded, known = found[name], EXPECTED | {"reparameterized": name == "folded"}
        if name == "folder":
            known.pop("feature_maps")
        assert loaded["logits"] == pytest.approx(tiny.logits, abs=1e-5 if name == "folded" else 1e-6)
        assert {key: loaded[key] for key in known} == known
        assert loaded["modules"] == ["transformers_modules"]
        assert [part.removesuffix("Pil") for part in loaded["classes"]] == CLASSES
    assert "trust_remote_code=True" in found["untrusted"]
    for model_type, (_, logits) in others.items():
        assert found["others"][model_type] == pytest.approx(logits, abs=1e-6)
    for name, (*_, logits) in halves.items():
        assert found["halves"][name] == pytest.approx(logits, abs=1e-6)
    for model_type, (*_, answer) in dense.items():
        assert torch.allclose(torch.tensor(found["dense"][model_type]), torch.tensor(answer), rtol=1e-4, atol=1e-9)
    assert found["copy"] == pytest.approx(tiny.logits, abs=1e-6)
    model, processor = (
        AutoModelForObjectDetection.from_pretrained(detector),
        AutoImageProcessor.from_pretrained(detector),
    )
    assert found["detector"] == [detect(model, processor), "transformers_modules"]
    pipe = pipeline("zero-shot-image-classification", model=str(two_towers))
    scores = pipe(Image.linear_gradient("L").convert("RGB"), candidate_labels=["cat", "dog"])
    assert found["two_towers"][0] == {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in scores}
    assert found["two_towers"][1].startswith("transformers_modules.") and found["two_towers"][2] == 1
    assert found["snippets"] == found["local_snippets"] == 1
    assert "not supported" not in found["stderr"]
    assert published.hub.count("GET", "/cdn/") == 2  # the weights of the two repositories, once each
    assert not any(authorized for _, _, authorized in published.hub.requests)

    asked = {"load": {"latest": ("org/net", {}), "pinned": ("org/net", pinned)}}
    offline = run_client("without_package", asked, home=tmp_path / "cache", hub=None, HF_HUB_OFFLINE="1")
    for loaded in (offline["latest"], offline["pinned"]):
        assert loaded["logits"] == found["pinned"]["logits"] and loaded["labels"] == EXPECTED["labels"]
