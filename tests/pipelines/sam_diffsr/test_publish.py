"""`hub.publish` of pipelines: folders and objects arrive whole, with card and code, or are refused."""

import json

import pytest
import torch
from diffusers import DDIMScheduler

from hf_effmodels.hub import publish
from hf_effmodels.hub.pipelines import pipeline_code
from hf_effmodels.pipelines import SamDiffSRPipeline
from hf_effmodels.pipelines.sam_diffsr.export import export

from ...hub.conftest import maker_hub, onto_the_network
from ...hub.server import File
from .test_hub import CODE, enlarge, user
from .tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(legacy_256=False, scheduler={"num_train_timesteps": 50})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    onto_the_network(monkeypatch, tmp_path)
    with maker_hub() as server:
        yield server


@pytest.fixture
def push(hub):
    def call(what, repo_id="org/sr", **options):
        return publish(what, repo_id, **({"token": "maker", "endpoint": hub.url} | options))

    return call


def local(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.thorough
def test_a_published_folder_is_that_folder_and_loads_with_and_without_the_package(hub, push, pipe, tmp_path):
    folder = export(pipe, tmp_path / "model", license="mit")
    commit = push(folder)
    published, expected = hub.files("org/sr", commit.oid), local(folder)
    readme = published.pop("README.md").decode()
    assert readme == expected.pop("README.md").decode().replace('"path/to/this/folder"', '"org/sr"')
    assert published == expected and CODE < published.keys() and len(hub.repos["org/sr"].commits) == 2
    assert push(folder).oid == commit.oid, "nothing has changed: no empty commit"
    for package in (True, False):
        home = tmp_path / f"package {package}"
        loaded = user(home, package=package, load=["org/sr"], endpoint=hub.url)["org/sr"]
        assert loaded[0] == "SamDiffSRPipeline"
        assert torch.allclose(torch.tensor(loaded[2]), torch.from_numpy(enlarge(pipe)), atol=1e-6)


def test_what_save_pretrained_wrote_gets_a_card_with_the_licence_that_is_given(hub, push, pipe, tmp_path):
    changed = SamDiffSRPipeline(pipe.condition_encoder, pipe.unet, DDIMScheduler.from_config(pipe.scheduler.config))
    changed.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="license: none is given and .*plain states none"):
        push(tmp_path / "plain")
    push(tmp_path / "plain", license="cc-by-4.0")
    readme = hub.files("org/sr")["README.md"].decode()
    assert "\nlicense: cc-by-4.0\n" in readme and 'from_pretrained("org/sr"' in readme and "# sr\n" in readme
    push(export(pipe, tmp_path / "unlicensed"), license="mit")
    readme = hub.files("org/sr")["README.md"].decode()
    assert "| Licence of the weights | mit |" in readme and "none stated" not in readme
    with pytest.raises(ValueError, match="license: none is given and SamDiffSRPipeline states none"):
        push(pipe)
    push(pipe, license="mit", repo_id="org/object", dataset="org/photos", training={"max_steps": 3}, private=True)
    readme = hub.files("org/object")["README.md"].decode()
    assert "- org/photos" in readme and "| max_steps | `3` |" in readme and hub.repos["org/object"].private


def test_the_card_of_an_exported_folder_says_where_it_is_published(hub, push, pipe, tmp_path):
    """In its snippets and nowhere else; the folder keeps the card that it has."""
    folder = export(pipe, tmp_path / "model", license="mit")
    card = (folder / "README.md").read_text()
    assert card.count('from_pretrained("path/to/this/folder"') == 2
    push(folder)
    published = hub.files("org/sr")["README.md"].decode()
    assert published.count('from_pretrained("org/sr"') == 2 and "path/to/this/folder" not in published
    assert published.split('"org/sr"') == card.split('"path/to/this/folder"')
    assert (folder / "README.md").read_text() == card


def test_refreshing_the_code_leaves_weights_and_card_alone(hub, push, pipe, tmp_path):
    folder = export(pipe, tmp_path / "model", license="mit")
    push(folder)
    repo = hub.repos["org/sr"]
    older = {
        name: File((folder / name).read_bytes() + b"# an old bug\n")
        for name in ("pipeline_sam_diffsr.py", "unet/modeling_sam_diffsr.py")
    }
    before = repo.commit("main", repo.commits[repo.resolve("main")] | older, "older code")
    after = push(None, refresh_code=True)
    old, new = hub.files("org/sr", before), hub.files("org/sr", after.oid)
    assert {n for n in new if new[n] != old[n]} == {"pipeline_sam_diffsr.py", "unet/modeling_sam_diffsr.py"}
    index = json.loads(new["model_index.json"])
    assert {n: new[n] for n in new if n.endswith(".py")} == pipeline_code(index, "")

    # By a folder or a pipeline, too; but never by one of other or edited code.
    assert push(folder, refresh_code=True).oid == push(pipe, refresh_code=True).oid == after.oid
    code = folder / "unet" / "modeling_sam_diffsr.py"
    code.write_bytes(code.read_bytes() + b"# by hand\n")
    with pytest.raises(ValueError, match=r"modeling_sam_diffsr\.py is not what hf_effmodels .* writes"):
        push(folder, refresh_code=True)
    (tmp_path / "empty").mkdir()
    for other in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="has no model_index.json, but org/sr is a pipeline"):
            push(other, refresh_code=True)
    with pytest.raises(ValueError, match="is a 'RRDBModel', but org/sr holds a 'sam_diffsr'"):
        push(pipe.condition_encoder, refresh_code=True)
    for wrong in (b"[1]", b"{", b"\xff"):
        repo.commit("main", repo.commits[repo.resolve("main")] | {"model_index.json": File(wrong)}, "broken")
        with pytest.raises(ValueError, match="repo_id: model_index.json of org/sr (holds a list|cannot be read)"):
            push(None, refresh_code=True)


def test_weights_of_an_earlier_upload_do_not_stay(hub, push, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists()
    push(tmp_path / "shards", license="mit")
    (shards := hub.files("org/sr"))["notes/mine.txt"] = b""
    assert len([name for name in shards if name.startswith("unet/diffusion_pytorch_model-")]) > 1
    push(export(pipe, tmp_path / "whole", license="mit"))
    left = hub.files("org/sr")
    assert [n for n in left if n.startswith("unet/diffusion")] == ["unet/diffusion_pytorch_model.safetensors"]


def test_what_must_not_be_published_is_refused_before_the_hub_is_asked(hub, push, pipe, tmp_path):
    folder = export(pipe, tmp_path / "model", license="mit")
    index, weights = folder / "model_index.json", folder / "unet" / "diffusion_pytorch_model.safetensors"

    def refused(message: str):
        with pytest.raises(ValueError, match=message):
            push(folder)

    whole = index.read_text()
    index.write_text(whole.replace("pipeline_sam_diffsr", "pipeline_of_others"))
    refused("its model_index.json is of .*pipeline_of_others.*accepted are pipelines of this package: .*sam_diffsr")
    index.write_text(whole[:-20])
    refused("model_index.json cannot be read")
    index.write_text(whole)
    code = (folder / "matlab_resize.py").read_bytes()
    (folder / "matlab_resize.py").unlink()
    refused("has no matlab_resize.py, without which it loads only where hf_effmodels is installed")
    (folder / "matlab_resize.py").write_bytes(code)
    tensors = weights.read_bytes()
    weights.write_bytes(tensors[:-100])
    refused("unet/diffusion_pytorch_model.safetensors is truncated or damaged")
    weights.unlink()
    refused("has no unet/diffusion_pytorch_model.safetensors")
    weights.write_bytes(tensors)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    refused("has no configuration of its component 'scheduler'")
    with pytest.raises(ValueError, match="license: got 'mit', but the card in .* says 'apache-2.0'"):
        push(export(pipe, tmp_path / "other", license="apache-2.0"), license="mit")
    assert hub.requests == []
