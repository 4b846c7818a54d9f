"""Publishing with the real client to the loopback Hub: one commit or none, clear refusals, code apart from weights."""

import json
import logging
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import httpx
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

import hf_effmodels
from hf_effmodels.hub import build_card, export, publish
from hf_effmodels.hub.export import architecture_code
from hf_effmodels.hub.publish import dry_run
from hf_effmodels.hub.stock_card import stock_card
from hf_effmodels.quantization import CbqConfig, convert_to_bitlinear, quantize
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.test_initialization import MASKED
from ..modeling.tiny import tiny_config
from .server import File
from .test_load import PACKED

pytestmark = pytest.mark.usefixtures("online")


@pytest.fixture
def folder(tiny, tmp_path):
    return export(tiny.model, tiny.processor, tmp_path / "model", license="apache-2.0")


@pytest.fixture
def push(hub, folder):
    """publish() to the loopback Hub as a maker; keywords may change everything."""

    def call(what=folder, repo_id="org/net", **options):
        return publish(what, repo_id, **({"token": "maker", "endpoint": hub.url} | options))

    return call


def test_a_folder_becomes_one_commit_and_again_none(hub, tiny, folder, push):
    commit = push()
    assert commit.commit_url == f"{hub.url}/org/net/commit/{commit.oid}"
    assert len(hub.repos["org/net"].commits) == 2  # the empty repository's own, and ours
    assert hub.repos["org/net"].visibility is None  # as the organisation has chosen for its new ones
    published = hub.files("org/net", commit.oid)
    local = {path.name: path.read_bytes() for path in folder.iterdir()}
    # The snippets of the folder's card now name the repository and pin a commit; the rest is the folder.
    readme, local_readme = published.pop("README.md").decode(), local.pop("README.md").decode()
    assert (
        readme
        == str(build_card(tiny.model, processor=tiny.processor, license="apache-2.0", repo_id="org/net")).replace(
            "# net\n", "# GhostNetV3\n"
        )
        != local_readme
    )
    assert published == local
    assert push().oid == commit.oid  # nothing has changed: no empty commit
    assert not any(authorized for method, path, authorized in hub.requests if path.startswith("/lfs/"))


@pytest.mark.parametrize("network", [{}, {"network": {}}, {"network": 3}, {"network": {"model_type": 3}}])
def test_a_network_with_a_code_says_what_it_is_made_around(network, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "coded_classifier", **network}))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(ValueError, match="config.json does not say which network there is a code in"):
        dry_run(tmp_path, "org/net")


def test_a_dry_run_tells_what_is_uploaded_then_byte_for_byte_and_asks_nobody(hub, folder, push):
    (folder / "notes.txt").write_text("mine")
    told = dry_run(folder, "org/net")
    assert not hub.requests and (told.revision, told.create_pr, told.left_out) == ("main", False, ["notes.txt"])
    push()
    assert told.files == {name: len(content) for name, content in hub.files("org/net").items()}
    with pytest.raises(ValueError, match="license: got 'mit', but the card in"):
        dry_run(folder, "org/net", license="mit")


def test_a_model_is_exported_and_published_to_a_branch_or_a_pull_request(hub, tiny, push):
    options = {"processor": tiny.processor, "license": "mit"}
    branch = push(tiny.model, revision="dev", private=True, **options)
    assert hub.repos["org/net"].private
    assert list(hub.files("org/net", "main")) == [] and "license: mit" in _text(hub, "dev", "README.md")
    request = push(tiny.model, create_pr=True, commit_message="Weights", **options)
    assert (
        request.pr_revision == "refs/pr/1"
        and hub.files("org/net", "refs/pr/1").keys() == hub.files("org/net", branch.oid).keys()
    )
    assert list(hub.files("org/net", "main")) == [] and hub.repos["org/net"].messages[request.oid] == "Weights"


def _text(hub, revision: str, name: str) -> str:
    return hub.files("org/net", revision)[name].decode()


def add(hub, **files: bytes) -> None:
    """Commit files to org/net as somebody else; dots in their names are written `__`."""
    repo = hub.repos["org/net"]
    changed = {name.replace("__", "."): File(content) for name, content in files.items()}
    repo.commit("main", repo.commits[repo.resolve("main")] | changed, "theirs")


def test_a_new_upload_removes_what_the_last_one_left_and_nothing_else(hub, folder, push):
    push()
    ours = (folder / "squeeze_excite.py").read_bytes()
    theirs = {"handler__py": b"# an endpoint's own code", "curves__png": b"png", "pytorch_model__bin": b"theirs"}
    theirs |= {"edited__py": ours + b"# by hand", "vocab__txt": b"theirs", "onnx_model__safetensors": b"theirs"}
    theirs |= {"adapter_model__safetensors": b"theirs"}
    left = {"old_layer__py": ours, "model-00001-of-00002__safetensors": b"", "model__safetensors__index__json": b"{}"}
    add(hub, **theirs, **left)
    push()
    assert hub.files("org/net").keys() == os_names(folder) | {name.replace("__", ".") for name in theirs}


def os_names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("fault", ["drop", 500])
def test_an_interrupted_upload_leaves_no_half_commit_and_a_retry_completes_it(hub, push, impatient, fault):
    hub.faults["PUT", "/lfs/"] = [fault] * 6  # as often as the client tries
    with pytest.raises(OSError, match="org/net: .*publish again"):
        push()
    assert len(impatient) == 5 and hub.count("PUT", "/lfs/") == 6
    assert hub.files("org/net") == {} and hub.lfs == {}
    commits = hub.faults["POST", "/api/models/org/net/commit"] = [fault]  # the weights arrive, the commit does not
    with pytest.raises(OSError, match="org/net: .*publish again"):
        push()
    assert hub.files("org/net") == {} and len(hub.lfs) == 1
    uploads = hub.count("PUT", "/lfs/")
    commits.append("lost")  # the commit arrives, but the client does not hear of it
    with pytest.raises(ConnectionError, match="A commit arrives whole or not at all; publish again"):
        push()
    commit = push()
    assert hub.count("PUT", "/lfs/") == uploads  # what had arrived is not sent twice
    assert {"model.safetensors", "config.json", "modeling_ghostnet.py"} <= hub.files("org/net", commit.oid).keys()
    assert len(hub.repos["org/net"].commits) == 2  # the empty repository's own, and one of ours


HANGING = [("POST", "/api/repos/create"), ("GET", "/api/models/"), ("POST", "/api/models/org/net/preupload")]
HANGING += [("POST", "/org/net.git/info/lfs"), ("PUT", "/lfs/"), ("POST", "/api/models/org/net/commit")]


@pytest.mark.parametrize("where", HANGING, ids=lambda where: where[1])
def test_a_server_that_never_answers_is_given_up(hub, push, impatient, where):
    hub.faults[where] = ["hang"] * 6  # as often as the client tries
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=r"org/net: the Hub did not answer within 0\.2 seconds \(timeout"):
        push(timeout=0.2)
    assert time.monotonic() - begun < 10
    assert get_session().timeout == httpx.Timeout(None), "the client's own setting is back"
    assert "org/net" not in hub.repos or hub.files("org/net") == {}
    hub.faults.clear()
    assert push().oid


def test_a_token_is_stripped_checked_and_never_shown(hub, push):
    assert push(token=" maker\n").oid
    for token in ("mak er", "mak\ner", "maké", "maker\x00"):
        with pytest.raises(ValueError, match="token: it has characters that no token has") as error:
            push(token=token)
        assert token not in str(error.value) and "mak" not in str(error.value).replace("maker", "")
    for timeout in (0, -1, float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match="timeout: got .*, accepted are seconds above 0"):
            push(timeout=timeout)


def test_a_commit_by_somebody_else_meanwhile_is_not_overwritten(hub, folder, push, monkeypatch):
    push()
    create_commit = HfApi.create_commit

    def late(self, *arguments, **options):
        hub.repos["org/net"].commit("main", {}, "theirs")
        return create_commit(self, *arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", late)
    (folder / "LICENSE").write_text("more")
    with pytest.raises(OSError, match="somebody else committed meanwhile"):
        push()
    assert hub.files("org/net") == {}


def test_refreshing_the_code_leaves_weights_and_card_alone(hub, tiny, folder, push):
    push()
    code = architecture_code(tiny.architecture)
    config = json.loads((folder / "config.json").read_text())
    older = {**config, "auto_map": {k: v for k, v in config["auto_map"].items() if k != "AutoBackbone"}}
    add(
        hub,
        retired__py=code["squeeze_excite.py"],
        config__json=json.dumps(older).encode(),
        modeling_ghostnet__py=code["modeling_ghostnet.py"] + b"# an old bug\n",
        handler__py=b"# an endpoint's own code\n",
    )
    before = hub.repos["org/net"].resolve("main")
    weights = HfApi(endpoint=hub.url).get_paths_info("org/net", ["model.safetensors"])
    hub.requests.clear()

    after = push(None, refresh_code=True)
    assert after.oid != before and hub.count("PUT", "/lfs/") == 0 and hub.count("GET", "/cdn/") == 0
    assert HfApi(endpoint=hub.url).get_paths_info("org/net", ["model.safetensors"]) == weights
    old, new = hub.files("org/net", before), hub.files("org/net", after.oid)
    assert {name: new[name] for name in code} == code
    assert old.keys() - new.keys() == {"retired.py"} and new["handler.py"] == old["handler.py"]
    assert {name for name in new if new[name] != old[name]} == {"modeling_ghostnet.py", "config.json"}
    renewed = json.loads(new["config.json"])
    assert renewed.pop("auto_map")["AutoBackbone"] == "modeling_ghostnet.GhostNetV3Backbone"
    assert renewed == {key: value for key, value in config.items() if key != "auto_map"}
    assert push(None, refresh_code=True).oid == after.oid

    # The code of a folder, and of a model, as well; but never that of another architecture, nor edited code.
    assert push(tiny.model, refresh_code=True).oid == push(folder, refresh_code=True).oid == after.oid
    modeling = folder / "modeling_ghostnet.py"
    modeling.write_bytes(modeling.read_bytes() + b"# by hand\n")
    with pytest.raises(ValueError, match=r"modeling_ghostnet\.py is not what hf_effmodels .* writes"):
        push(refresh_code=True)
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "ghostnet", "architectures": ["GhostNetForImageClassification"]})
    )
    with pytest.raises(ValueError, match="is a 'ghostnet', but org/net holds a 'ghostnetv3'"):
        push(refresh_code=True)
    with pytest.raises(FileNotFoundError, match="org/nothing is not on the Hub"):
        push(None, "org/nothing", refresh_code=True)
    for wrong in (b"[1]", b"{", b"\xff"):
        add(hub, config__json=wrong)
        with pytest.raises(ValueError, match="repo_id: config.json of org/net (holds a list|cannot be read)"):
            push(None, refresh_code=True)


def test_code_is_refreshed_only_of_a_published_model(hub, folder, push, tmp_path):
    push()
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=f"folder_or_model: {tmp_path} is not an exported model"):
        push(tmp_path, refresh_code=True)
    add(hub, config__json=json.dumps(config | {"model_type": "llama"}).encode())
    with pytest.raises(ValueError, match="repo_id: org/net is a 'llama', accepted are "):
        push(None, refresh_code=True)
    with pytest.raises(ValueError, match="folder_or_model: is a 'ghostnetv3', but org/net holds a 'llama'"):
        push(folder, refresh_code=True)
    HfApi(endpoint=hub.url, token="maker").create_repo("org/empty")
    with pytest.raises(ValueError, match="repo_id: org/empty has no config.json; refresh_code renews the code of a"):
        push(None, "org/empty", refresh_code=True)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), "30"])
def test_an_answer_is_waited_for_some_time(push, timeout):
    with pytest.raises(ValueError, match="timeout: got .*, accepted are seconds above 0"):
        push(timeout=timeout)


def test_a_card_and_settings_of_quantisers_have_to_be_readable(folder, push):
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "cbq", "nope": 1}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    code = architecture_code(ARCHITECTURES["ghostnetv3"], {"quantization_config": settings})
    before = {file.name: file.read_bytes() for file in folder.glob("*.py")}
    for name, content in code.items():
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="folder_or_model: the quantization_config in .*config.json is none that can"):
        push()
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in before.items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="folder_or_model: .*README.md is no text in UTF-8"):
        push()
    (folder / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(ValueError, match="folder_or_model: the metadata of .*README.md cannot be read"):
        push()
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match="folder_or_model: .*model has no README.md"):
        push()


def test_refusals_of_the_hub_say_what_to_do(hub, push, monkeypatch):
    with pytest.raises(PermissionError, match=r"token: it may not write to org/net .*write access to 'org'"):
        push(token="reader")
    with pytest.raises(PermissionError, match="token: it may not write to stranger/net"):
        push(repo_id="stranger/net")
    with pytest.raises(PermissionError, match="token: the Hub does not accept it for org/net"):
        push(token="expired")
    asked = len(hub.requests)
    with pytest.raises(PermissionError, match="token: none was given and none is stored. Run `hf auth login`"):
        push(token=None)
    with pytest.raises(ConnectionError, match="org/net: the connection to the Hub failed"):
        push(endpoint="http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        push()
    assert len(hub.requests) == asked and hub.repos == {}


def test_what_must_not_be_published_is_refused_before_the_hub_is_asked(hub, tiny, folder, push, tmp_path):
    for repo_id in ("net", "org/net/main", "org/n t", "org/net.git", 7):
        with pytest.raises(ValueError, match="repo_id: got .*'namespace/name'"):
            push(repo_id=repo_id)
    with pytest.raises(ValueError, match="license: none is given and GhostNetV3ForImageClassification states none"):
        push(tiny.model, processor=tiny.processor)
    unlicensed = export(tiny.model, tiny.processor, tmp_path / "unlicensed")
    with pytest.raises(ValueError, match="license: none is given and .*unlicensed states none"):
        push(unlicensed)
    with pytest.raises(ValueError, match="license: got 'mit', but the card in .* says 'apache-2.0'"):
        push(license="mit")
    with pytest.raises(ValueError, match="dataset: goes into the card of a model"):
        push(dataset="digits")
    with pytest.raises(ValueError, match="revision: got 'dev' with create_pr=True"):
        push(revision="dev", create_pr=True)
    with pytest.raises(ValueError, match="got None, which only refresh_code=True accepts"):
        push(None)
    with pytest.raises(ValueError, match="is not a folder"):
        push(tmp_path / "nowhere")
    tiny.model.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain is not an exported model"):
        push(tmp_path / "plain")
    for name, files, words in (
        ("half", {"split.json": "{}"}, "a half of a split model, which uploads itself: .* have push_to_hub"),
        ("halves/head", {"split.json": "{}"}, "a half of a split model"),
        (
            "program",
            {"export.json": "{}", "config.json": "{}"},
            "a program, .*`hf upload org/net .*program`",
        ),
    ):
        (tmp_path / name).mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        with pytest.raises(ValueError, match=f"is not an exported model .*; it holds {words}"):
            push(tmp_path / name.partition("/")[0])
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load_file(weights)
    save_file(
        tensors | {"classifier.weight": tensors["classifier.weight"][:, 1:].contiguous()}, weights, {"format": "pt"}
    )
    with pytest.raises(ValueError, match="another shape are classifier.weight"):
        push()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="model.safetensors is truncated or damaged"):
        push()
    weights.unlink()
    with pytest.raises(ValueError, match="has no model.safetensors"):
        push()
    assert hub.requests == []


@pytest.fixture
def stock(tmp_path):
    """What a training of a model of transformers leaves: the model with its card, and what is nobody else's."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    model, folder = ResNetForImageClassification(config), tmp_path / "stock"
    for place in (folder, folder / "checkpoint-3"):
        model.save_pretrained(place)
        ViTImageProcessorPil().save_pretrained(place)
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"PK")
    (folder / "training_curve.png").touch()
    (folder / "all_results.json").write_text("{}")
    (folder / "id_rsa").write_text("PRIVATE KEY")
    card = stock_card(model, "image-classification", processor=ViTImageProcessorPil())
    (folder / "README.md").write_text(str(card))
    return folder


@pytest.mark.parametrize("kind", MASKED)
def test_a_model_around_one_of_transformers_has_its_names_on_disk(hub, push, kind, tmp_path):
    """They are others than in memory where transformers renames: none is missing, and one that is has its own."""
    folder = export(MASKED[kind](), ViTImageProcessorPil(), tmp_path / kind, license="mit")
    weights = load_file(folder / "model.safetensors")
    assert any("encoder.layer.0" in name for name in weights) == (kind != "spark"), "ViT's old names, ResNet has none"
    push(folder)
    assert hub.files("org/net")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    name = next(name for name in weights if name.endswith("weight"))
    save_file({n: w for n, w in weights.items() if n != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"missing, superfluous or of another shape are {name}$"):
        dry_run(folder, "org/net")


def test_of_a_model_of_transformers_what_it_needs_is_published_and_no_code(hub, push, stock, caplog):
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        push(stock, license="mit")
    published = hub.files("org/net")
    assert published.keys() == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert dry_run(stock, "org/net", license="mit").files.keys() == published.keys()
    assert published["model.safetensors"] == (stock / "model.safetensors").read_bytes()
    assert "not published, as a model does not need it: " in caplog.text and "checkpoint-3/optimizer.pt" in caplog.text
    card = published["README.md"].decode()
    assert "license: mit" in card and 'model_id = "org/net"' in card and "in this folder" not in card
    assert "none stated" not in card
    push(stock, license="mit")
    assert len(hub.repos["org/net"].commits) == 2, "the same again is none"


def test_a_model_of_transformers_replaces_one_of_this_package_with_its_code(hub, push, stock):
    push()
    assert any(name.endswith(".py") for name in hub.files("org/net"))
    push(stock, license="mit")
    assert not [name for name in hub.files("org/net") if name.endswith(".py")]


def test_of_a_model_of_transformers_what_is_missing_or_runs_code_is_refused(hub, push, stock):
    with pytest.raises(ValueError, match="license: none is given and .*stock states none"):
        push(stock)
    with pytest.raises(ValueError, match="checkpoint-3 has no README.md, which says what it is"):
        push(stock / "checkpoint-3", license="mit")
    for name, auto_map in (
        ("preprocessor_config.json", {"AutoImageProcessor": ["processing.Own", None]}),
        ("config.json", {"AutoModel": "own.Own"}),
    ):
        content = (stock / name).read_text()
        (stock / name).write_text(json.dumps({**json.loads(content), "auto_map": auto_map}))
        with pytest.raises(ValueError, match="auto_map"):
            push(stock, license="mit")
        elsewhere = dict.fromkeys(auto_map, "org/code--own.Own")
        (stock / name).write_text(json.dumps({**json.loads(content), "auto_map": elsewhere}))
        push(stock, license="mit", repo_id="org/elsewhere")
        (stock / name).write_text(content)
    (stock / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="model.safetensors is truncated or damaged"):
        push(stock, license="mit")
    (stock / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no model.safetensors"):
        push(stock, license="mit")
    assert "org/net" not in hub.repos


def test_a_network_around_one_of_transformers_is_exported_with_its_code_first(push, stock):
    network = {"model_type": "coded_classifier", "network": {"model_type": "resnet"}}
    (stock / "config.json").write_text(json.dumps(network))
    with pytest.raises(ValueError, match="is not an exported model; write one with hf_effmodels.hub.export"):
        push(stock, license="mit")


def test_a_folder_without_a_licence_gets_the_one_that_is_given(hub, tiny, push, tmp_path):
    push(export(tiny.model, tiny.processor, tmp_path / "unlicensed"), license="cc-by-4.0")
    readme = hub.files("org/net")["README.md"].decode()
    assert "\nlicense: cc-by-4.0\n" in readme and "| Licence of the weights | cc-by-4.0 |" in readme
    assert "none stated" not in readme


@pytest.mark.usefixtures("impatient")
def test_a_private_repository_needs_a_token_and_a_broken_download_resumes(hub, folder, push, tmp_path, monkeypatch):
    push(private=True)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    options = {"repo_id": "org/net", "filename": "model.safetensors", "local_dir": tmp_path / "down"}
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url).hf_hub_download(**options)
    hub.faults["GET", "/cdn/"] = ["half"]
    path = HfApi(endpoint=hub.url, token="maker").hf_hub_download(**options)
    assert Path(path).read_bytes() == (folder / "model.safetensors").read_bytes()
    received = (folder / "model.safetensors").stat().st_size // 2 // 1000 * 1000
    assert hub.ranges == [f"bytes={received}-"]
    # The CDN is another origin: the token was for the Hub alone.
    assert {authorized for _, path, authorized in hub.requests if path.startswith("/cdn/")} == {False}


@pytest.mark.parametrize(
    "method",
    [
        "cbq",
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("compressed-tensors", "bitnet158")),
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("packed_binary", "adder")),
    ],
)
def test_a_quantised_model_is_published_whole(hub, tiny, push, tmp_path, method):
    """What is on the Hub is the folder without what somebody else put there, and is refreshed; others do not fit."""
    if method in ("cbq", "compressed-tensors", "bitnet158"):
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        model, processor = hf_effmodels.create_model("pangu-pi-15m", **sizes, vocab_size=99), None
        if method == "bitnet158":
            model = convert_to_bitlinear(model)
        else:
            samples = torch.randint(99, (2, 8), generator=torch.Generator().manual_seed(0))
            left = ["augmented_shortcuts"]
            config = CbqConfig(method="rtn", bits=4, group_size=32, modules_to_not_convert=left)
            quantize(model, [samples], config).save(tmp_path / "quantised", method)
            model = type(model).from_pretrained(tmp_path / "quantised")
    else:
        name = {"packed_binary": "adabin", "adder": "addernet"}[method]
        architecture, processor = ARCHITECTURES[name], tiny.processor
        model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture)).eval()
        model = PACKED[name](model) or model
    folder = export(model, processor, tmp_path / "small", license="mit")
    (folder / "notes.txt").write_text("mine")
    commit = push(folder)
    assert hub.files("org/net", commit.oid).keys() == os_names(folder) - {"notes.txt"}
    assert push(None, refresh_code=True).oid == commit.oid
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if weights[key].ndim == 2)
    save_file(weights | {name: weights[name][1:].contiguous()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"another shape are {name}"):
        push(folder)


@pytest.mark.parametrize(
    "name, change",
    [
        ("config.json", lambda held: held.pop("auto_map")),
        ("config.json", lambda held: held.update(auto_map=None)),
        ("config.json", lambda held: held.update(auto_map={})),
        ("config.json", lambda held: held["auto_map"].pop("AutoModelForImageClassification")),
        ("config.json", lambda held: held["auto_map"].update(AutoConfig="org/other--configuration.Config")),
        ("preprocessor_config.json", lambda held: held.update(auto_map={"AutoImageProcessor": "mine.Processor"})),
        ("preprocessor_config.json", lambda held: held.update(auto_map={})),
    ],
    ids=["lost", "null", "empty", "a class less", "another repository", "a processor's", "a processor's, empty"],
)
def test_what_says_by_which_code_a_folder_loads_is_what_an_export_writes(hub, folder, push, name, change):
    held = json.loads((folder / name).read_text())
    change(held)
    (folder / name).write_text(json.dumps(held))
    words = f"the auto_map in .*{name} is not what hf_effmodels|.*is not an exported model .* must have an auto_map"
    with pytest.raises(ValueError, match=f"^folder_or_model: ({words})"):
        push()
    assert hub.requests == []


def test_a_processor_that_is_ours_has_to_say_by_which_code_it_loads(hub, push, tmp_path):
    """Without, a detector would load where this package is installed alone."""
    architecture = ARCHITECTURES["gold_yolo"]
    model = architecture.model_class("AutoModelForObjectDetection")(tiny_config(architecture, num_labels=2)).eval()
    processor = architecture.image_processor_class("pil")(size={"height": 64, "width": 64})
    file = export(model, processor, tmp_path / "detector", license="mit") / "preprocessor_config.json"
    held = json.loads(file.read_text())
    assert set(held["auto_map"]) == {"AutoImageProcessor"}
    for others in ({}, {"auto_map": None}, {"auto_map": {"AutoImageProcessor": "mine.Processor"}}):
        file.write_text(json.dumps({name: value for name, value in held.items() if name != "auto_map"} | others))
        with pytest.raises(
            ValueError, match="^folder_or_model: the auto_map in .*preprocessor_config.json is not what"
        ):
            push(tmp_path / "detector")
    assert hub.requests == []


def test_a_branch_that_has_gone_its_own_way_is_cleared_and_added_to(hub, folder, push):
    """What is there already is that of the branch, not of main."""
    push()
    push(revision="dev")
    repo, ours = hub.repos["org/net"], (folder / "squeeze_excite.py").read_bytes()
    for branch, name in (("main", "of_main.py"), ("dev", "of_dev.py")):
        repo.commit(branch, repo.commits[repo.resolve(branch)] | {name: File(ours)}, "an older layer")
    push(revision="dev")
    assert hub.files("org/net", "dev").keys() == os_names(folder)
    assert hub.files("org/net", "main").keys() == os_names(folder) | {"of_main.py"}


def test_the_code_of_a_branch_is_renewed_there_and_in_a_request_with_its_message(hub, folder, push):
    push()
    push(revision="dev")
    repo, ours = hub.repos["org/net"], (folder / "squeeze_excite.py").read_bytes()
    repo.commit("dev", repo.commits[repo.resolve("dev")] | {"of_dev.py": File(ours)}, "an older layer")
    main = repo.resolve("main")
    commit = push(None, refresh_code=True, revision="dev", commit_message="Newer layers")
    assert hub.files("org/net", "dev").keys() == os_names(folder) and repo.messages[commit.oid] == "Newer layers"
    assert repo.resolve("dev") == commit.oid and repo.resolve("main") == main
    repo.commit("main", repo.commits[main] | {"of_main.py": File(ours)}, "an older layer")
    request = push(None, refresh_code=True, create_pr=True)
    assert request.pr_revision.startswith("refs/pr/") and repo.messages[request.oid] == "Refresh the model's code"
    assert hub.files("org/net", request.pr_revision).keys() == os_names(folder)
    assert "of_main.py" in hub.files("org/net", "main")
