"""A pipeline that is installed is downloaded without code, one that is not as diffusers does it."""

import pytest
from diffusers import DiffusionPipeline
from huggingface_hub.utils import filter_repo_objects

from hf_effmodels.pipelines import DelvmPipeline, SamDiffSRPipeline
from hf_effmodels.pipelines.delvm import pipeline_delvm
from hf_effmodels.pipelines.sam_diffsr import pipeline_sam_diffsr

#: What is read; of a variant as well; what never is.
DELVM = (
    [
        "model_index.json", "vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors",
        "language_model/config.json", "language_model/generation_config.json", "language_model/model.safetensors",
        "language_model/model.safetensors.index.json", "language_model/model-00001-of-00002.safetensors",
    ],
    ["language_model/model.fp16.safetensors", "vqvae/diffusion_pytorch_model.fp16.safetensors"],
    ["pipeline_delvm.py", "vqvae/modeling.py", "language_model/pytorch_model.bin", "README.md", "model.safetensors"],
)  # fmt: skip
SAM_DIFFSR = (
    [
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json", "scheduler/scheduler_config.json",
        "condition_encoder/diffusion_pytorch_model-00001-of-00002.safetensors",
    ],
    ["unet/diffusion_pytorch_model.fp16.safetensors"],
    ["pipeline_sam_diffsr.py", "unet/modeling_sam_diffsr.py", "unet/diffusion_pytorch_model.bin", "README.md"],
)  # fmt: skip
PIPES = [
    (DelvmPipeline, pipeline_delvm, DELVM),
    (SamDiffSRPipeline, pipeline_sam_diffsr, SAM_DIFFSR),
]
HOW = {"cache_dir": "here", "revision": "v1", "token": "mine", "force_download": False, "local_files_only": True}


@pytest.mark.parametrize("pipe, module, files", PIPES, ids=["delvm", "sam_diffsr"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_and_configurations_are_downloaded_and_no_code(pipe, module, files, variant, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "snapshot_download", lambda name, **options: asked.append((name, options)) or "folder")
    given = {**HOW, "variant": variant, "custom_pipeline": "theirs", "trust_remote_code": True, "proxies": None}
    assert pipe.download("org/net", **given) == "folder"
    ((name, options),) = asked
    patterns = {which: options.pop(f"{which}_patterns") for which in ("allow", "ignore")}
    assert name == "org/net" and options == HOW
    always, of_variant, never = files
    kept = {*filter_repo_objects([*always, *of_variant, *never], **{f"{k}_patterns": v for k, v in patterns.items()})}
    assert kept == {*always, *(of_variant if variant else ())}
    pipe.download("org/net", revision=None)
    assert asked[1][1].keys() == {"allow_patterns", "ignore_patterns"}


@pytest.mark.parametrize("pipe, module, files", PIPES, ids=["delvm", "sam_diffsr"])
def test_a_file_of_a_repository_leaves_the_download_to_diffusers(pipe, module, files, monkeypatch):
    asked = []
    monkeypatch.setattr(
        DiffusionPipeline, "download", lambda name, **options: asked.append((name, options)) or "theirs"
    )
    monkeypatch.setattr(module, "snapshot_download", lambda *_, **__: pytest.fail("the package is not installed"))
    for package in (None, "", "diffusers_modules.local"):
        monkeypatch.setattr(module, "__package__", package)
        assert pipe.download("org/net", revision="v1") == "theirs"
    assert asked == [("org/net", {"revision": "v1"})] * 3
