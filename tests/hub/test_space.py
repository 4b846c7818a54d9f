"""What a Space for a published model is made of; the apps themselves are tried where gradio is installed."""

import io
import json
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from hf_effmodels.cli import main
from hf_effmodels.hub import space


class Api:
    """A Hub of one repository, and what is committed to it."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.asked, self.made, self.committed = files, [], {}, {}

    def repo_info(self, repo_id, revision=None, timeout=None, repo_type="model"):
        self.asked.append((repo_id, revision, repo_type, timeout))
        names = self.files if repo_type == "model" else ()
        return SimpleNamespace(sha=f"sha-of-{repo_type}", siblings=[SimpleNamespace(rfilename=name) for name in names])

    def hf_hub_download(self, repo_id, name, revision, local_dir):
        assert revision == "sha-of-model", "what was looked at is what is read"
        file = f"{local_dir}/{name}"
        with open(file, "wb") as out:
            out.write(self.files[name])
        return file

    def create_repo(self, repo_id, **options):
        self.made[repo_id] = options

    def create_commit(self, repo_id, operations, **options):
        self.committed[repo_id] = ({o.path_in_repo: o.path_or_fileobj for o in operations}, options)
        return "done"


def classifier(**more) -> dict[str, bytes]:
    config = {"model_type": "ghostnetv3", "architectures": ["GhostNetV3ForImageClassification"], **more}
    return {"config.json": json.dumps(config).encode(), "README.md": b"---\nlicense: mit\n---\n"}


@pytest.fixture(autouse=True)
def versions(monkeypatch):
    monkeypatch.setattr(space, "version", lambda name: f"{len(name)}.5+cpu")


def test_an_app_pins_the_model_and_the_versions_that_are_here():
    api = Api(classifier(auto_map={}))
    files = space.space_files(api, "org/net", "dev", timeout=7)
    assert api.asked == [("org/net", "dev", "model", 7)]
    settings = json.loads(files["demo.json"])
    assert settings == {
        "model": "org/net", "task": "image-classification", "revision": "sha-of-model", "trust_remote_code": True,
    }  # fmt: skip
    assert "gradio==6.5\n" in (pinned := files["requirements.txt"].decode()) and "numpy==5.5\n" in pinned
    assert not {"diffusers", "accelerate"} & {line.partition("==")[0] for line in pinned.splitlines()}
    _, head, text = files["README.md"].decode().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert (facts["title"], facts["license"], facts["models"], facts["sdk_version"]) == (
        "net",
        "mit",
        ["org/net"],
        "6.5+cpu",
    )
    assert facts["short_description"] == "net: image-classification" and "at commit `sha-of-model`" in text
    assert {"app.py", "images.py", "texts.py", "examples/cat.jpg", "examples/README.md"} <= files.keys()
    plain = space.space_files(api := Api({"config.json": classifier()["config.json"]}), "org/net")
    assert api.asked == [("org/net", None, "model", 30)]
    assert json.loads(plain["demo.json"])["trust_remote_code"] is False and b"license:" not in plain["README.md"]


def test_pictures_of_users_come_without_what_a_camera_says_and_not_too_large(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "at home"
    Image.new("RGB", (2048, 1000), (200, 0, 0)).save(tmp_path / "large.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    files = space.space_files(Api(classifier()), "org/net", examples=[tmp_path / "large.jpg", tmp_path / "small.png"])
    pictures = {name: content for name, content in files.items() if name.startswith("examples/")}
    assert json.loads(files["demo.json"])["examples"] == [*pictures] == ["examples/1.jpg", "examples/2.jpg"]
    sizes = [Image.open(io.BytesIO(content)).size for content in pictures.values()]
    assert sizes == [(1024, 500), (30, 20)] and not any(b"at home" in content for content in pictures.values())
    (tmp_path / "notes.png").write_text("mine")
    with pytest.raises(ValueError, match="examples: .*notes.png: the file is not an image"):
        space.space_files(Api(classifier()), "org/net", examples=[tmp_path / "notes.png"])


def test_texts_have_no_pictures_and_pipelines_more_packages():
    config = {"model_type": "pangu_pi", "architectures": ["PanguPiForCausalLM"]}
    files = space.space_files(Api({"config.json": json.dumps(config).encode()}), "org/net")
    assert json.loads(files["demo.json"])["task"] == "text-generation"
    assert not [name for name in files if name.startswith("examples/")]
    index = {"_class_name": ["pipeline_sam_diffsr", "SamDiffSRPipeline"]}
    files = space.space_files(Api({"model_index.json": json.dumps(index).encode()}), "org/net")
    assert (
        json.loads(files["demo.json"])["task"] == "super-resolution" and b"diffusers==9.5" in files["requirements.txt"]
    )
    assert json.loads(files["demo.json"])["trust_remote_code"] is True


@pytest.mark.parametrize(
    "files, what",
    [
        ({}, "no known task"),
        ({"config.json": b'{"model_type": "bert"}'}, "no known task"),
        ({"config.json": b'{"model_type": "ghostnetv3", "architectures": ["Other"]}'}, "no known task"),
        ({"config.json": b'{"model_type": "ghostnetv3"}'}, "no known task"),
        ({"model_index.json": b'{"_class_name": ["pipeline_other", "Other"]}'}, "no known task"),
        ({"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}'}, "no known task"),
        (
            {"config.json": b'{"model_type": "ghostnetv3", "architectures": ["GhostNetV3Model"]}'},
            "image-feature-extraction",
        ),
        (
            {"config.json": b'{"model_type": "light_clip", "architectures": ["LightClipModel"]}'},
            "zero-shot-image-classification",
        ),
    ],
)
def test_models_without_an_app_are_named(files, what):
    with pytest.raises(ValueError, match=f"model_id: org/net is for {what}, accepted are models of this"):
        space.space_files(Api(files), "org/net")


def test_packages_that_are_not_installed_cannot_be_pinned(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(space, "version", version)
    with pytest.raises(ImportError, match=r"and gradio is not: pip install 'hf_effmodels\[demo\]' gradio"):
        space.space_files(Api(classifier()), "org/net")


@pytest.mark.parametrize("own, private, expected", [(None, False, None), ("org/app", True, True)])
def test_a_space_is_one_commit(own, private, expected, monkeypatch):
    api = Api(classifier())
    monkeypatch.setattr(space, "HfApi", lambda endpoint, token: api)
    options = {"private": private, "timeout": 9}
    assert space.publish_space("org/net", own, token="mine", **options) == "done"
    (name, (files, how)), *rest = api.committed.items()
    assert name == (own or "org/net") and not rest and "app.py" in files
    assert api.made == {name: {"private": expected, "exist_ok": True, "repo_type": "space", "space_sdk": "gradio"}}
    assert how == {"commit_message": "Show org/net", "repo_type": "space", "parent_commit": "sha-of-space"}
    assert api.asked == [("org/net", None, "model", 9), (name, None, "space", 9)]
    for wrong in (("net", None), ("org/net", "app")):
        with pytest.raises(ValueError, match="repo_id: got .*'namespace/name'"):
            space.publish_space(*wrong, token="mine")


def test_a_space_is_written_into_a_folder_of_its_own(tmp_path, monkeypatch):
    api, tokens = Api(classifier()), []
    monkeypatch.setattr(space, "HfApi", lambda endpoint, token: tokens.append(token) or api)
    for _ in range(2):  # its own folder is written again
        assert space.write_space("org/net", tmp_path / "space", revision="dev") == tmp_path / "space"
    assert tokens == [None, None] and api.asked[0] == ("org/net", "dev", "model", 30)
    assert (tmp_path / "space" / "examples" / "cat.jpg").exists() and (tmp_path / "space" / "app.py").exists()
    (tmp_path / "space" / "app.py").write_text("mine")
    with pytest.raises(FileExistsError):
        space.write_space("org/net", tmp_path / "space", token="mine")
    assert tokens[-1] == "mine" and (tmp_path / "space" / "app.py").read_text() == "mine"
    with pytest.raises(ValueError, match="repo_id: got 'net'"):
        space.write_space("net", tmp_path / "other")


def test_what_is_asked_of_a_space_reaches_the_model_the_hub_and_the_pictures(tmp_path, monkeypatch):
    api, made = Api(classifier()), []
    monkeypatch.setattr(space, "HfApi", lambda **given: made.append(given) or api)
    Image.new("RGB", (9, 9), (200, 0, 0)).save(tmp_path / "mine.png")
    options = {"revision": "dev", "endpoint": "https://hub", "examples": [tmp_path / "mine.png"], "timeout": 5}
    space.publish_space("org/net", "org/app", token=" mine ", **options)
    files, _ = api.committed["org/app"]
    own = space.write_space("org/net", tmp_path / "out", token=" mine ", **options)
    assert made == [{"endpoint": "https://hub", "token": "mine"}] * 2
    assert api.asked == [
        ("org/net", "dev", "model", 5), ("org/app", None, "space", 5), ("org/net", "dev", "model", 5)
    ]  # fmt: skip
    written = {p.relative_to(own).as_posix() for p in own.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert files.keys() == written and "examples/1.jpg" in written and "examples/cat.jpg" not in written
    assert Image.open(own / "examples" / "1.jpg").format == "JPEG"


def test_a_card_of_a_space_has_the_models_name_cut_where_it_is_too_long():
    head, text = space._readme("org/" + "n" * 70, "image-classification", "abc", None).split("---\n\n", 1)
    facts = yaml.safe_load(head.removeprefix("---\n"))
    assert facts["title"] == "n" * 70 and facts["short_description"] == "n" * 59 + "…"
    assert facts["emoji"] == "🔎" and "🔎" in head and list(facts)[0] == "title" and facts["pinned"] is False
    assert (facts["sdk"], facts["app_file"]) == ("gradio", "app.py") and "license" not in facts
    assert text.startswith(f"[org/{'n' * 70}](https://huggingface.co/org/{'n' * 70}) at commit `abc`")


@pytest.mark.parametrize(
    "config, served",
    [
        ({"model_type": "light_clip", "architectures": ["LightClipModel"]}, False),
        ({"model_type": "ghostnetv3", "architectures": ["GhostNetV3ForImageClassification"]}, True),
    ],
)
def test_a_model_without_an_app_is_not_published_to_find_that_out(config, served, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(config))
    published = []
    monkeypatch.setattr("hf_effmodels._exported.check_export", lambda *_: None)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.setattr("hf_effmodels.hub.publish", lambda *_, **__: published.append("model"))
    commit = SimpleNamespace(pr_url=None, commit_url="https://here")
    monkeypatch.setattr(space, "publish_space", lambda *_, **__: published.append("space") or commit)
    assert main(["publish", str(tmp_path), "you/net", "--space"]) == (0 if served else 2)
    assert published == (["model", "space"] if served else [])
    said = "--space: FOLDER is for zero-shot-image-classification, of which there is no app; apps are for image-"
    assert (said in capsys.readouterr().err) is not served
