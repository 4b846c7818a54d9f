"""Saving, loading and publishing: with the package, without it, from a folder and from the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard

from hf_effmodels.pipelines import RRDBModel, SamDiffSRPipeline, SamDiffSRUNet2DModel
from hf_effmodels.pipelines.sam_diffsr.export import export

from ...hub.conftest import maker_hub
from .tiny import photo, seeded, tiny_pipeline

IMAGE = photo(12, 10)
CODE = {"pipeline_sam_diffsr.py", "image_inputs.py", "matlab_resize.py"}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(legacy_256=False, scheduler={"num_train_timesteps": 50})


def enlarge(pipe) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    options = {"tile_size": 8, "tile_overlap": 4, "output_type": "np"}
    return pipe(IMAGE, num_inference_steps=3, generator=seeded(), **options).images


def user(home: Path, *, package: bool, **asked) -> dict:
    """What user.py reports from a fresh process with caches of its own under `home`."""
    home.mkdir(exist_ok=True)
    endpoint = asked.pop("endpoint", None)
    network = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"} if endpoint else {}
    caches = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_CACHE", "HF_MODULES_CACHE")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("user.py"))],
        input=json.dumps({"image": np.array(IMAGE).tolist(), "package": package, **asked}),
        env={**caches, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **network},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_saved_pipeline_comes_back(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = SamDiffSRPipeline.from_pretrained(tmp_path)
    assert isinstance(again.unet, SamDiffSRUNet2DModel) and isinstance(again.condition_encoder, RRDBModel)
    assert again.config.legacy_256 is False and again.scheduler.config.num_train_timesteps == 50
    np.testing.assert_allclose(enlarge(again), enlarge(pipe), atol=1e-6)
    again.save_pretrained(tmp_path / "again")
    for path in tmp_path.glob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    encoder = RRDBModel.from_pretrained(tmp_path, subfolder="condition_encoder")
    assert torch.equal(encoder.conv_first.weight, pipe.condition_encoder.conv_first.weight)


def test_a_saved_pipeline_with_a_stock_sampler_comes_back(pipe, tmp_path):
    from diffusers import DDIMScheduler

    changed = SamDiffSRPipeline(pipe.condition_encoder, pipe.unet, DDIMScheduler.from_config(pipe.scheduler.config))
    changed.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("scheduler/*.py"))
    again = SamDiffSRPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is DDIMScheduler
    np.testing.assert_allclose(enlarge(again), enlarge(changed), atol=1e-6)


def test_a_pipeline_with_compiled_networks_is_saved_as_those_they_are(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "plain")
    compiled = SamDiffSRPipeline.from_pretrained(tmp_path / "plain")
    compiled.unet = torch.compile(compiled.unet, backend="eager")
    compiled.condition_encoder = torch.compile(compiled.condition_encoder, backend="eager")
    compiled.save_pretrained(tmp_path / "saved")
    export(compiled, tmp_path / "exported", license="mit")
    plain, saved, exported = (
        {
            p.relative_to(tmp_path / name).as_posix(): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.is_file()
        }
        for name in ("plain", "saved", "exported")
    )
    assert saved == plain and exported == {"README.md": exported["README.md"], **plain}
    again = SamDiffSRPipeline.from_pretrained(tmp_path / "saved")
    assert isinstance(again.unet, SamDiffSRUNet2DModel) and isinstance(again.condition_encoder, RRDBModel)


def test_variants_and_a_precision_for_each_network(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        SamDiffSRPipeline.from_pretrained(tmp_path)
    again = SamDiffSRPipeline.from_pretrained(tmp_path, variant="fp16")
    np.testing.assert_allclose(enlarge(again), enlarge(pipe), atol=1e-6)
    half = {"unet": torch.bfloat16, "default": torch.float32}
    mixed = SamDiffSRPipeline.from_pretrained(tmp_path, variant="fp16", dtype=half)
    assert (mixed.unet.dtype, mixed.condition_encoder.dtype) == (torch.bfloat16, torch.float32)
    assert np.abs(enlarge(mixed) - enlarge(pipe)).mean() < 0.05


def test_code_of_a_folder_runs_only_when_trusted(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path)
    (tmp_path / "pipeline_sam_diffsr.py").write_text("raise SystemExit('the code in the folder ran')")
    assert isinstance(SamDiffSRPipeline.from_pretrained(tmp_path), SamDiffSRPipeline)


def test_a_published_pipeline_loads_with_the_package_and_without(pipe, tmp_path):
    """From a folder, from the Hub, and from a copy that somebody without the package saved."""
    folder, copy, expected = (
        str(export(pipe, tmp_path / "model", license="mit")),
        str(tmp_path / "copy"),
        enlarge(pipe),
    )
    with maker_hub() as hub:
        maker = user(tmp_path / "1", package=True, push=(folder, "org/sr"), load=["org/sr"], endpoint=hub.url)
        repository = hub.repos["org/sr"]
        paths = set(repository.commits[repository.refs["main"]])
        stranger = user(tmp_path / "2", package=False, load=["org/sr", folder], copy=copy, endpoint=hub.url)
    assert CODE | {"model_index.json", "unet/modeling_sam_diffsr.py", "scheduler/scheduling_sam_diffsr.py"} <= paths
    assert maker["light"], "importing the package, its pipelines too, loads no diffusers"
    assert maker["fetched code"] == [], "where the package is installed no code of the repository is even downloaded"
    assert stranger["package"] == [] and "trust_remote_code" in stranger["untrusted"]
    for name, legacy, images in (maker["org/sr"], stranger["org/sr"], stranger[folder], stranger[copy]):
        assert (name, legacy) == ("SamDiffSRPipeline", False)
        np.testing.assert_allclose(images, expected, atol=1e-6)


def test_an_export_has_a_card_and_is_written_whole_or_not_at_all(pipe, tmp_path, monkeypatch):
    folder = export(pipe, tmp_path / "model", license="mit", preset="sam-diffsr-x4", repo_id="org/sr")
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
        "diffusers",
        "image-to-image",
        "mit",
    )
    assert '"org/sr"' in card.text and "30.99 dB" in card.text
    with pytest.raises(FileExistsError, match="is not empty"):
        export(pipe, folder)
    with pytest.raises(ValueError, match="license: got 'MIT-2'"):
        export(pipe, tmp_path / "other", license="MIT-2")
    with pytest.raises(ValueError, match="preset: got 'sam-diffsr'"):
        export(pipe, tmp_path / "other", preset="sam-diffsr")

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(SamDiffSRPipeline, "save_config", fail)
    with pytest.raises(OSError, match="no space left"):
        export(pipe, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
