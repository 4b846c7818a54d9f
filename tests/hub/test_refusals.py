"""What is said where publishing, exporting and fetching are refused, and what stands in the way of a loose end."""

import hashlib
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_effmodels._token import stated_token
from hf_effmodels.hub import contents, export, pretrained, publish
from hf_effmodels.hub import download as web
from hf_effmodels.hub.bundle import is_bundled
from hf_effmodels.hub.card_text import NO_LICENSE
from hf_effmodels.hub.export import clear_export
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config
from .test_load import PACKED
from .test_pipeline_folders import fill, read

publishing, fetching = sys.modules[publish.__module__], sys.modules[pretrained.__module__]


@pytest.fixture
def folder(tiny, tmp_path):
    return export(tiny.model, tiny.processor, tmp_path / "model", license="mit")


@pytest.fixture
def push(folder, monkeypatch):
    """Whatever would be sent comes back, with the message of the commit."""

    class Api:
        def __init__(self, endpoint, token):
            pass

        def create_repo(self, *_, **__):
            pass

        create_branch = create_repo

        def repo_info(self, *_, **__):
            return SimpleNamespace(sha="0", siblings=None)

        def create_commit(self, repo_id, operations, **options):
            return {o.path_in_repo: o.path_or_fileobj for o in operations}, options

    monkeypatch.setattr(publishing, "HfApi", Api)
    return lambda what=folder, **options: publish(what, "org/net", token="mine", **options)


# what the client says


def answer(status: int, said: str | None = "no  such\n thing") -> HfHubHTTPError:
    response = httpx.Response(status, request=httpx.Request("GET", "https://x.org"))
    return HfHubHTTPError("the client's own words", response=response, server_message=said)


def fail(error: Exception, wrapped: bool = False) -> None:
    """As the client fails, which wraps what goes wrong in an upload."""
    with publishing.explained("org/net", 2.5):
        if wrapped:
            raise RuntimeError("the upload failed") from error
        raise error


@pytest.mark.parametrize(
    "status, kind, message",
    [
        (401, PermissionError, r"token: the Hub does not accept it for org/net \(no such thing\)"),
        (403, PermissionError, r"token: it may not write to org/net \(no such thing\).* write access to 'org'"),
        (404, FileNotFoundError, r"repo_id: org/net is not on the Hub, or not for this token \(no such thing\)"),
        (409, OSError, r"org/net: somebody else committed meanwhile \(no such thing\)"),
        (412, OSError, r"org/net: somebody else committed meanwhile \(no such thing\)"),
        (400, OSError, r"org/net: the Hub answered 400 \(no such thing\)"),
        (429, OSError, r"org/net: the Hub answered 429 \(no such thing\)"),
        (500, OSError, r"org/net: the Hub answered 500 \(no such thing\)"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_each_refusal_of_the_hub_is_told_apart(status, kind, message, wrapped):
    with pytest.raises(OSError, match=f"^{message}") as told:
        fail(answer(status), wrapped)
    assert type(told.value) is kind
    with pytest.raises(OSError, match="the client's own words"):
        fail(answer(status, None))


@pytest.mark.parametrize("wrapped", [False, True])
def test_where_there_is_no_answer_it_is_said_how_long_was_waited_or_what_broke(wrapped):
    for error, message in (
        (httpx.ReadTimeout("slow"), r"^org/net: the Hub did not answer within 2\.5 seconds \(timeout; ReadTimeout\)"),
        (httpx.ConnectError("gone"), r"^org/net: the connection to the Hub .* broke off \(ConnectError: gone\)"),
    ):
        with pytest.raises(ConnectionError, match=message):
            fail(error, wrapped)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        fail(OfflineModeIsEnabled("offline"))


def test_what_is_not_the_hubs_fault_is_passed_on_and_the_clients_patience_comes_back():
    session = huggingface_hub.get_session()
    before = session.timeout
    with publishing.explained("org/net", 2.5):
        assert session.timeout == httpx.Timeout(2.5)
    for error in (RuntimeError("mine"), KeyError("mine")):
        with pytest.raises(type(error), match="mine"):
            fail(error)
        assert session.timeout == before


def test_a_token_is_the_one_that_is_given_or_the_one_that_is_stored(monkeypatch):
    monkeypatch.setattr("hf_effmodels._token.get_token", lambda: " stored\n")
    assert stated_token(None) == "stored" and stated_token("given") == "given"
    monkeypatch.setattr("hf_effmodels._token.get_token", lambda: None)
    for token in (None, "", " "):
        with pytest.raises(PermissionError, match="token: none was given and none is stored"):
            stated_token(token)


# what is sent, and what is not


def test_a_commit_says_what_was_uploaded_unless_it_is_said_otherwise(push):
    _, options = push()
    assert options == {
        "commit_message": "Upload GhostNetV3ForImageClassification",
        "parent_commit": "0",
        "revision": None,
        "create_pr": False,
    }
    assert push(commit_message="Mine", create_pr=True)[1]["commit_message"] == "Mine"


def test_a_branch_is_made_where_a_branch_is_meant(push, monkeypatch):
    made = []
    monkeypatch.setattr(publishing.HfApi, "create_branch", lambda self, *a, **options: made.append((a, options)))
    assert push(revision="refs/pr/1")[1]["revision"] == "refs/pr/1" and made == []
    assert push(revision="dev")[1]["revision"] == "dev"
    assert made == [(("org/net",), {"branch": "dev", "exist_ok": True})]


def test_the_first_of_several_wrong_arguments_is_named(push):
    with pytest.raises(ValueError, match="^dataset: goes into the card of a model; the folder has its card already"):
        push(training={}, dataset="digits")
    for seconds in (0, float("inf"), "5", None):
        with pytest.raises(ValueError, match="timeout: got .*, accepted are seconds above 0"):
            push(timeout=seconds)
    assert push(timeout=0.5)


@pytest.mark.parametrize("count, more", [(10, ""), (11, " and 1 more"), (13, " and 3 more")])
def test_the_first_ten_files_that_are_left_out_are_named(push, folder, caplog, count, more):
    for number in reversed(range(count)):
        (folder / f"note{number:02}.txt").write_text("mine")
    (folder / "empty").mkdir()
    push()
    names = ", ".join(f"note{number:02}.txt" for number in range(10))
    assert caplog.messages == [f"not published, as a model does not need it: {names}{more}"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architectures": []}, r"has the architectures \[\], accepted is one of "),
        ({"architectures": "GhostNetV3Model"}, "has the architectures 'GhostNetV3Model', accepted is one of"),
        ({"architectures": ["GhostNetV3Model"] * 2}, r"has the architectures \[.*\], accepted is one of GhostNetV3B"),
        ({"architectures": ["VigModel"]}, r"has the architectures \['VigModel'\], accepted is one of"),
        ({"model_type": "llama"}, "config.json is of 'llama', accepted are .*ghostnetv3"),
        ({"model_type": ["ghostnetv3"]}, r"config.json is of \['ghostnetv3'\], accepted are"),
        ({"stages": 3}, r"config.json is no configuration \(.+\)$"),
        ({"model_type": "ghostnet"}, "has the architectures"),
    ],
)
def test_the_configuration_of_a_folder_is_that_of_its_model(push, folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=f"^folder_or_model: .*{message}"):
        push()


def test_weights_that_do_not_fit_are_named_five_of_them_or_all(push, folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    names = sorted(weights)
    save_file({name: weights[name] for name in names[6:]}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"another shape are {', '.join(names[:5])}$"):
        push()
    save_file(weights | {"more": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="another shape are more$"):
        push()
    save_file({}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="missing, superfluous or of another shape are "):
        push()


def test_of_tied_weights_one_is_written_and_the_folder_is_whole(tmp_path, push):
    architecture = ARCHITECTURES["pangu_pi"]
    model = architecture.model_class("AutoModelForCausalLM")(tiny_config(architecture, tie_word_embeddings=True))
    folder = export(model, None, tmp_path / "tied", license="mit")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    sent, options = push(folder)
    assert "model.safetensors" in sent and options["commit_message"] == "Upload PanguPiForCausalLM"
    weights = load_file(folder / "model.safetensors")
    value = weights.pop("model.embed_tokens.weight")
    save_file(weights | {"lm_head.weight": value}, folder / "model.safetensors", {"format": "pt"})
    assert push(folder), "either name is enough"
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="another shape are lm_head.weight, model.embed_tokens.weight$"):
        push(folder)


def test_a_pipeline_takes_the_place_of_a_model_and_a_model_leaves_the_parts_of_a_pipeline(monkeypatch):
    """Weights of a model lie beside its configuration, those of a pipeline in a folder for each part."""
    present = ["model.safetensors", "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    present += ["unet/diffusion_pytorch_model-00001-of-00002.safetensors", "adapter_model.safetensors"]
    present += ["old/deeper/model.safetensors", "old.py", "unet/old.py", "README.md", "onnx/model.onnx"]
    monkeypatch.setattr(publishing, "download_bytes", lambda api, repo_id, name, head: name.encode())
    monkeypatch.setattr(publishing, "is_bundled", lambda content: content.endswith(b"old.py"))

    def gone(new, weights):
        return {o.path_in_repo for o in publishing._deletions(None, "org/net", "0", present, new, weights=weights)}

    parts = {"unet/diffusion_pytorch_model-00001-of-00002.safetensors", "text_encoder/model.safetensors"}
    new = {"model_index.json", "unet/diffusion_pytorch_model.safetensors"}
    assert gone(new, True) == {"model.safetensors", "old.py"} | parts
    assert gone({"config.json", "README.md"}, True) == {"model.safetensors", "old.py"}
    assert gone({"config.json", "model.safetensors"}, True) == {"old.py"}
    assert gone({"modeling.py"}, False) == {"old.py"} and gone({"old.py"}, False) == set()


def with_license(*arguments) -> str:
    return publishing._with_license(*arguments)


def test_the_licence_of_a_card_is_one_and_the_one_that_is_given(tmp_path):
    stated, open_ = "---\nlicense: mit\n---\ntext", f"---\ntags:\n- a\n---\n| Licence | {NO_LICENSE} |"
    assert with_license(stated, tmp_path, None) == with_license(stated, tmp_path, "mit") == stated
    filled = with_license(open_, tmp_path, "mit")
    assert "license: mit" in filled and "| Licence | mit |" in filled
    for text, license, message in (
        (open_, None, "license: none is given and .* states none"),
        (open_, "Mine", "license: got 'Mine'"),
        (stated, "apache-2.0", "license: got 'apache-2.0', but the card in .* says 'mit'"),
        ("---\nlicense: Mine\n---\n", None, "license: got 'Mine'"),
        ("---\nlicense: other\n---\n", None, "license_name"),
    ):
        with pytest.raises(ValueError, match=message):
            with_license(text, tmp_path, license)
    whole = "---\nlicense: other\nlicense_name: mine\nlicense_link: https://x.org/l\n---\n"
    assert with_license(whole, tmp_path, None) == whole


# exports


@pytest.mark.parametrize(
    "model_type, said",
    [
        (
            "light_clip",
            "processor: got .*, but LightCLIP takes images and text; give a .* of transformers, with",
        ),
        (
            "gold_yolo",
            "processor: got .*, but the boxes of Gold-YOLO are those of its own image processor; giv",
        ),
        ("adem_vl", "processor: got .*, but ADEM-VL takes images and text; give an AdemVLProcessor of hf_effmodels"),
    ],
)
def test_a_processor_of_another_kind_is_refused(tiny, model_type, said, tmp_path):
    architecture = ARCHITECTURES[model_type]
    model = architecture.model_class(architecture.tasks[0].auto_class)(tiny_config(architecture))
    with pytest.raises(ValueError, match=f"^{said}"):
        export(model, tiny.processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_charts_lie_beside_the_card_that_shows_them(tiny, tmp_path):
    (tmp_path / "training_curve.png").write_bytes(b"a chart")
    folder = export(tiny.model, tiny.processor, tmp_path / "out", figures=[str(tmp_path / "training_curve.png")])
    assert (folder / "training_curve.png").read_bytes() == b"a chart"
    assert "![Training](training_curve.png)" in (folder / "README.md").read_text()
    again = export(tiny.model, tiny.processor, folder)
    assert again == folder and not (folder / "training_curve.png").exists(), "it is part of the earlier export"


def test_templates_of_chats_are_part_of_an_export(tmp_path):
    architecture = ARCHITECTURES["pangu_pi"]
    model = architecture.model_class("AutoModelForCausalLM")(tiny_config(architecture))
    words = Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    folder = export(model, tokenizer, tmp_path / "out")
    assert [path.name for path in (folder / "additional_chat_templates").iterdir()] == ["tools.jinja"]
    assert "| Preparation |" in (folder / "README.md").read_text()
    assert export(model, tokenizer, folder) == folder
    (folder / "mine").mkdir()
    clear_export(folder)
    assert os.listdir(folder) == ["mine"]
    (folder / "mine").rmdir()
    clear_export(export(model, tokenizer, folder))
    assert not folder.exists()
    folder.mkdir()
    (folder / "additional_chat_templates").mkdir()
    with pytest.raises(FileExistsError, match="holds additional_chat_templates"):
        export(model, tokenizer, folder)


def test_code_has_our_header_and_the_checksum_of_what_follows(folder):
    content = (folder / "squeeze_excite.py").read_bytes()
    header, _, source = content.partition(b"\n")
    assert is_bundled(content)
    for other in (b"# mine" + header[14:] + b"\n" + source, header + b"0\n" + source, header[:-1] + b"\n" + source):
        assert not is_bundled(other)


# what belongs to a model


def test_of_a_folder_in_disorder_nothing_is_ours(tmp_path):
    fill(tmp_path, {"config.json": "{}", "README.md": "", "LICENSE": "mine", "model.safetensors": ""})
    assert contents.own_files(tmp_path) == {"config.json", "README.md", "model.safetensors"}
    assert "LICENSE" in contents.model_files(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert contents.own_files(tmp_path) == set()
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "config.json").write_text("[")
    assert contents.own_files(tmp_path) == set()


@pytest.mark.parametrize("beside", ["", "unet/"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_weights_are_one_file_or_an_index_with_its_shards(beside, variant, stem, tmp_path):
    if stem != "model" and not beside:
        return
    whole, index = f"{beside}{stem}{variant}.safetensors", f"{beside}{stem}.safetensors.index{variant}.json"
    shards = [f"{stem}{variant}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert contents.needed_weights(tmp_path, whole) == {whole}
    assert contents.needed_weights(tmp_path, f"{beside}{shards[0]}") == {whole}
    fill(tmp_path, {index: json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}})})
    for name in (whole, f"{beside}{shards[0]}", index):
        assert contents.needed_weights(tmp_path, name) == {index, *(f"{beside}{shard}" for shard in shards)}
    for wrong, named in (("other.bin", "'other.bin'"), (3, "'3'"), (f"x/{shards[0]}", "'x/")):
        fill(tmp_path, {index: json.dumps({"weight_map": {"a": shards[0], "b": wrong}})})
        with pytest.raises(ValueError, match=f"names {named}.*accepted are weights beside it"):
            contents.needed_weights(tmp_path, whole)
    for broken in ("{", "[]", '{"weight_map": 3}', "{}"):
        fill(tmp_path, {index: broken})
        with pytest.raises(ValueError, match="is no index of weights"):
            contents.needed_weights(tmp_path, whole)
    fill(tmp_path, {whole: ""})
    with pytest.raises(ValueError, match="holds both .* delete the one that is not meant"):
        contents.needed_weights(tmp_path, whole)


def test_components_of_a_pipeline_are_read_by_their_libraries(tmp_path):
    """transformers' are called otherwise than diffusers', and schedulers have settings only."""
    index = {
        "_class_name": ["pipeline_sam_diffsr", "SamDiffSRPipeline"],
        "unet": ["modeling_sam_diffsr", "SamDiffSRUNet2DModel"],
        "text": ["transformers", "GPT2LMHeadModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "gone": [None, None],
    }
    read_ones = {
        "model_index.json": json.dumps(index),
        "README.md": "",
        "NOTICE": "",
        "unet/config.json": "{}",
        "unet/diffusion_pytorch_model.safetensors": "",
        "text/config.json": "{}",
        "text/generation_config.json": "{}",
        "text/model.safetensors": "",
        "scheduler/scheduler_config.json": "{}",
    }
    others = {
        "unet/generation_config.json": "{}",
        "unet/model.safetensors": "",
        "unet/scheduler_config.json": "{}",
        "text/scheduler_config.json": "{}",
        "scheduler/config.json": "{}",
        "gone/config.json": "{}",
        "config.json": "{}",
        "model.safetensors": "",
    }
    fill(tmp_path, read_ones | others)
    assert contents.model_files(tmp_path) == sorted(read_ones)
    assert contents.own_files(tmp_path) == read_ones.keys() - {"NOTICE"}
    assert read(tmp_path).keys() == read_ones.keys() | others.keys()


# where weights are fetched from


@pytest.mark.parametrize(
    "address, place",
    [
        (None, None),
        ("https://x.org/page", None),
        ("https://x.org/net.pth#notes", None),
        ("https://x.org/blob/net.pth", "https://x.org/blob/net.pth"),
        ("https://github.com/a/b/blob/main/net.pth", "https://github.com/a/b/raw/main/net.pth"),
        ("https://github.com/a/b/releases/net.pth.tar", "https://github.com/a/b/releases/net.pth.tar"),
        ("https://x.org/net.safetensors", "https://x.org/net.safetensors"),
    ],
)
def test_an_official_file_is_one_that_can_be_fetched_by_itself(address, place, monkeypatch):
    presets = ARCHITECTURES["ghostnet"].configuration_module.PRESETS
    known = replace(presets["ghostnet-0.5x"], weights=address, weights_sha256="00", timm="ghostnet_050.in1k")
    monkeypatch.setitem(presets, "ghostnet-0.5x", known)
    timm = fetching.Weights("timm", "timm/ghostnet_050.in1k")
    official = [] if place is None else [fetching.Weights("official", place, "00")]
    assert fetching.sources("ghostnet-0.5x") == [*official, timm]
    monkeypatch.setitem(presets, "ghostnet-0.5x", replace(known, timm=None))
    assert fetching.sources("ghostnet-0.5x") == official


def test_converted_weights_lie_where_the_variable_says_or_beside_the_hubs(monkeypatch):
    monkeypatch.setenv("HF_EFFMODELS_CACHE", "~/weights")
    assert fetching._cache() == Path.home() / "weights"
    monkeypatch.setenv("HF_EFFMODELS_CACHE", "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", "/the/hub")
    assert fetching._cache() == Path("/the/hub/hf_effmodels")
    monkeypatch.delenv("HF_EFFMODELS_CACHE")
    assert fetching._cache() == Path("/the/hub/hf_effmodels")


def test_the_token_is_for_the_hub_and_what_was_fetched_does_not_stay(monkeypatch, tmp_path, caplog):
    presets = ARCHITECTURES["ghostnet"].configuration_module.PRESETS
    known = replace(presets["ghostnet-0.5x"], weights="https://x.org/net.pth", timm="net", weights_license=None)
    monkeypatch.setitem(presets, "ghostnet-0.5x", replace(known, weights_license_note=None))
    monkeypatch.setenv("HF_EFFMODELS_CACHE", str(tmp_path))
    asked, folders = [], []

    def fetch(place, name, token):
        asked.append((place, name, token))
        return tmp_path / "model.safetensors"

    def load(place, file, digest):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"weights")
        return file

    def convert(preset, file, folder):
        folders.append((preset, file.name, file.exists()))
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(fetching, "download", load)
    monkeypatch.setattr(fetching, "convert", convert)
    with caplog.at_level("INFO", "hf_effmodels"):
        timm = pretrained("ghostnet-0.5x", "timm", token="mine")
    assert asked == [("timm/net", "model.safetensors", "mine")] and timm.name.startswith("timm-")
    assert caplog.messages == ["weights of ghostnet-0.5x: timm/net; licence not stated"]
    assert pretrained("ghostnet-0.5x") == timm, "those that are here go first"
    official = pretrained("ghostnet-0.5x", "official")
    assert folders == [("ghostnet-0.5x", "model.safetensors", False), ("ghostnet-0.5x", "net.pth", True)]
    assert sorted(path.name for path in (tmp_path / "ghostnet-0.5x").iterdir()) == sorted([timm.name, official.name])
    assert pretrained("ghostnet-0.5x") == official and len(folders) == 2


def test_adapters_are_not_fetched_without_the_models_they_are_for():
    with pytest.raises(ValueError, match="adem_vl-7b-instruction"):
        pretrained("adem_vl-7b-instruction")


# files of the web


class Answer(io.BytesIO):
    def __init__(self, content: bytes, length: str | None):
        super().__init__(content)
        self.headers = {} if length is None else {"Content-Length": length}


@pytest.mark.parametrize("length, whole", [(None, True), ("5", True), ("6", False), ("4", False)])
def test_a_file_is_whole_where_it_is_as_long_as_was_said(length, whole, monkeypatch, tmp_path):
    asked = []

    def urlopen(request, timeout):
        asked.append((request.full_url, request.get_header("User-agent"), timeout))
        return Answer(b"bytes", length)

    monkeypatch.setattr(web.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(web.constants, "HF_HUB_OFFLINE", False)
    if whole:
        assert web.download("https://x.org/a", tmp_path / "file") == tmp_path / "file"
        assert (tmp_path / "file").read_bytes() == b"bytes"
    else:
        with pytest.raises(OSError, match=rf"\(3 attempts\): it broke off after 5 of {length} bytes"):
            web.download("https://x.org/a", tmp_path / "file")
        assert os.listdir(tmp_path) == []
    assert asked == [("https://x.org/a", "hf_effmodels", 30)] * (1 if whole else 3)


@pytest.mark.parametrize("code, attempts", [(404, 1), (499, 1), (500, 3), (503, 3)])
def test_what_a_server_refuses_is_not_asked_for_again_and_its_own_faults_are(code, attempts, monkeypatch, tmp_path):
    asked = []

    def urlopen(request, timeout):
        asked.append(request)
        raise web.urllib.error.HTTPError(request.full_url, code, "Reason", {}, None)

    monkeypatch.setattr(web.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(web.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(OSError, match=f"^https://x.org/a cannot be downloaded: {code} Reason.$"):
        web.download("https://x.org/a", tmp_path / "file")
    assert len(asked) == attempts


def test_a_file_is_compared_with_its_digest_where_one_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(web.urllib.request, "urlopen", lambda request, timeout: Answer(b"bytes", None))
    monkeypatch.setattr(web.constants, "HF_HUB_OFFLINE", False)
    digest = hashlib.sha256(b"bytes").hexdigest()
    assert web.download("http://x.org/a", tmp_path / "file", digest=digest).read_bytes() == b"bytes"
    with pytest.raises(OSError, match=f"another file than expected: its SHA-256 is {digest}, not 00"):
        web.download("http://x.org/a", tmp_path / "other", digest="00")
    assert os.listdir(tmp_path) == ["file"]
    for url in ("ftp://x.org/a", "x.org/a", "/etc/hostname"):
        with pytest.raises(ValueError, match="url: got .*, accepted are addresses that begin with https:// or http:"):
            web.download(url, tmp_path / "file")


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_snippets_of_a_published_card_name_the_repository_with_and_without_a_tokenizer(has_tokenizer, tmp_path):
    architecture = ARCHITECTURES["pangu_pi"]
    model = architecture.model_class("AutoModelForCausalLM")(tiny_config(architecture))
    words = Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>") if has_tokenizer else None
    folder = export(model, tokenizer, tmp_path / "out", license="mit")
    assert (folder / "README.md").read_text().count('model_id = "."') == 2
    (card,) = [o for o in publishing._upload_operations(folder, "org/net", None) if o.path_in_repo == "README.md"]
    text = card.path_or_fileobj.decode()
    assert text.count('model_id = "org/net"') == 2 and 'model_id = "."' not in text
    assert "run in this folder" not in text and ("AutoTokenizer" in text) == has_tokenizer


UNET = "unet/diffusion_pytorch_model.safetensors"
OURS_THERE = ["model.safetensors", "model-00001-of-00002.safetensors", "old.py", UNET]
THEIRS_THERE = ["adapter_model.safetensors", "notes.md", "theirs.py", "unet/old.py", "runs/model.bin", "config.json"]


@pytest.mark.parametrize(
    "new, weights, gone",
    [
        ({"config.json", "model.safetensors"}, True, OURS_THERE[1:3]),
        ({"config.json", "model_index.json"}, True, OURS_THERE),
        ({"config.json", "model_index.json", UNET}, True, OURS_THERE[:3]),
        ({"new.py"}, False, ["old.py"]),
        ({"old.py"}, False, []),
    ],
)
def test_what_an_earlier_export_has_left_is_deleted_once_and_nothing_of_others(
    new, weights, gone, folder, monkeypatch
):
    """Of a pipeline the weights in its components' folders, too; of code what has our header."""
    code = (folder / "squeeze_excite.py").read_bytes()
    content = {"old.py": code, "theirs.py": b"import os", "unet/old.py": code}
    monkeypatch.setattr(publishing, "download_bytes", lambda api, repo_id, name, head: content[name])
    present = sorted([*OURS_THERE, *THEIRS_THERE])
    found = publishing._deletions(None, "org/net", "abc", present, new, weights)
    assert [operation.path_in_repo for operation in found] == sorted(gone)


@pytest.mark.parametrize("place", ["/here/llm", None, "llm"])
def test_adapters_whose_frozen_parts_are_nowhere_on_the_hub_are_not_published(place, tmp_path):
    config = {"model_type": "adem_vl", "adapter_only": True}
    config |= {"text_model_name_or_path": "org/llm", "vision_model_name_or_path": "org/clip"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    publishing._check_frozen_parts(tmp_path)
    for name in ("text_model_name_or_path", "vision_model_name_or_path"):
        (tmp_path / "config.json").write_text(json.dumps(config | {name: place}))
        with pytest.raises(ValueError, match=f"^folder_or_model: .* holds adapters whose {name} is {place!r}, which"):
            publishing._check_frozen_parts(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config | {name: place, "adapter_only": False}))
        publishing._check_frozen_parts(tmp_path)


@pytest.mark.parametrize(
    "stated, given",
    [
        ("cc-by-4.0", "cc-by-nc-4.0"),
        ("cc-by-nc-4.0", "cc-by-4.0"),
        ("cc-by-4.0", "cc-by-3.0"),
        ("gpl-3.0", "agpl-3.0"),
        ("llama3", "llama3.1"),
        ("bsd-2-clause", "bsd-3-clause"),
    ],
)
def test_a_licence_that_differs_in_a_part_of_its_name_is_another_one(stated, given, tmp_path):
    with pytest.raises(ValueError, match=f"license: got '{given}', but the card in .* says '{stated}'"):
        with_license(f"---\nlicense: {stated}\n---\n", tmp_path, given)


@pytest.mark.parametrize("lacks", ["scale", "weight", "bias", "everything"])
def test_a_quantised_folder_that_lacks_tensors_is_not_the_whole_model(lacks, tmp_path):
    architecture = ARCHITECTURES["adabin"]
    model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture)).eval()
    PACKED["adabin"](model)
    model.save_pretrained(tmp_path)
    config = type(model.config).from_pretrained(tmp_path)
    publishing._check_fit(tmp_path, architecture, config)
    weights = load_file(tmp_path / "model.safetensors")
    name = {
        "scale": lambda: next(n for n, w in weights.items() if w.dtype == torch.uint8),
        "weight": lambda: next(n for n in weights if n.endswith("classifier.weight")),
        "bias": lambda: next(n for n in weights if n.endswith(".bias")),
        "everything": lambda: "",
    }[lacks]()
    kept = {n: w for n, w in weights.items() if name and n != name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"missing, superfluous or of another shape are {name}"):
        publishing._check_fit(tmp_path, architecture, config)
