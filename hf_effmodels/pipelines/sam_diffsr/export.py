"""Write a pipeline as a folder that is ready for the Hub: weights, configurations, code and model card."""

import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ...hub.card import check_license
from .configuration_sam_diffsr import ARXIV, PAPER, PRESETS, REPOSITORY, TITLE

_USAGE = """## Use

```python
import torch
from diffusers import DiffusionPipeline
from PIL import Image

pipe = DiffusionPipeline.from_pretrained("{id}", trust_remote_code=True)
image = pipe(Image.open("photo.png"), generator=torch.Generator().manual_seed(0)).images[0]
```

Where `hf_effmodels` is installed no code of this repository runs:

```python
from hf_effmodels.pipelines import SamDiffSRPipeline

pipe = SamDiffSRPipeline.from_pretrained("{id}")
```

Fewer steps: `pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`. Large images:
`pipe(image, tile_size=128)`."""


def export(
    pipe,
    folder: str | os.PathLike,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    preset: str | None = None,
    conversion=None,
    repo_id: str | None = None,
) -> Path:
    """Write a `SamDiffSRPipeline` with its model card; `pipe.save_pretrained` writes the same without the card.

    Args:
        pipe: the pipeline.
        folder: where to; must not exist or be empty. Written beside under another name first, then renamed.
        license: the Hub's identifier of the licence of the weights; `license_name` and `license_link` go with "other".
        preset: the published variant, for the card.
        conversion: the `ConversionReport` of converted weights, for the card.
        repo_id: where the model is going to be on the Hub; the snippets use it.

    Raises:
        ValueError: an unknown licence or preset. FileExistsError: `folder` holds something.
    """
    check_license(license, license_name, license_link)
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, PRESETS))}.")
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"folder: {folder} exists and is not an empty folder.")
    data = ModelCardData(
        license=license,
        license_name=license_name,
        license_link=license_link,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["hf_effmodels", "sam-diffsr", "super-resolution", f"arxiv:{ARXIV}"],
    )
    title = repo_id.rpartition("/")[2] if repo_id else preset or TITLE
    sections = [
        f"# {title}",
        f"Super-resolution ×{pipe.unet.config.scale} of bicubically reduced images by diffusion of the residual, "
        f"after [{PAPER}](https://arxiv.org/abs/{ARXIV}) ([official code]({REPOSITORY})), implemented for diffusers "
        "by `hf_effmodels`. The repository carries the pipeline's code: it loads with or without that package.",
        _facts(pipe, license_name or license, license_link),
        _USAGE.format(id=repo_id or "path/to/this/folder"),
        _numbers(preset),
        _origin(conversion),
        f"## Citation\n\nPlease cite the paper: {PAPER}, arXiv:{ARXIV} ([BibTeX](https://arxiv.org/bibtex/{ARXIV})).",
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n")

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        pipe.save_pretrained(temporary)
        (temporary / "README.md").write_text(str(card), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _facts(pipe, license: str | None, link: str | None) -> str:
    def millions(model) -> str:
        return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"

    stated = license or "none stated: not for redistribution"
    rows = [
        ("Denoiser", f"U-Net, {millions(pipe.unet)} parameters"),
        ("Condition encoder", f"RRDB, {millions(pipe.condition_encoder)} parameters"),
        ("Timesteps of training", str(pipe.scheduler.config.num_train_timesteps)),
        ("Weights", str(pipe.unet.dtype).removeprefix("torch.") + ", safetensors"),
        ("Licence of the weights", f"[{stated}]({link})" if link else stated),
        ("Licence of the code", "apache-2.0"),
    ]
    return "## Facts\n\n" + _table(rows)


def _numbers(preset: str | None) -> str:
    known = PRESETS.get(preset, {})
    if "psnr" not in known:
        return ""
    rows = [(name, f"{known['psnr'][name]:.2f} dB, {known['ssim'][name]:.4f}") for name in known["psnr"]]
    return "## Published numbers\n\nPSNR and SSIM on luma, by the authors; not measured here.\n\n" + _table(rows)


def _origin(conversion) -> str:
    if conversion is None:
        return ""
    facts = asdict(conversion)
    rows = [
        ("Official file", f"`{facts['source']}`"),
        ("SHA-256", f"`{facts['sha256']}`"),
        ("Read from it", f"{facts['converted']} tensors of {facts['entry']}"),
    ]
    return "## Origin\n\nConverted from the official weights.\n\n" + _table(rows)
