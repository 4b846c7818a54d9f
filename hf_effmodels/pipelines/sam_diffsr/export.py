"""Write a pipeline as a folder that is ready for the Hub: weights, configurations, code and model card."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..._files import check_folder, whole_folder
from ...hub.card import NO_LICENSE, check_license
from ...hub.contents import MODEL_INDEX, is_model_file
from ...hub.ids import hub_id
from ...hub.pipelines import LOCAL_PIPELINE_ID
from . import ENTRIES
from .configuration_sam_diffsr import PRESETS

(_ENTRY,) = ENTRIES

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


def build_card(
    pipe,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    preset: str | None = None,
    conversion=None,
    repo_id: str | None = None,
    dataset: str | None = None,
    results: Mapping[str, float] | None = None,
    measured_on: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> ModelCard:
    """The model card of a `SamDiffSRPipeline`.

    Args:
        pipe: the pipeline.
        license: the Hub's identifier of the licence of the weights; `license_name` and `license_link` go with "other".
        preset: the published variant.
        conversion: the `ConversionReport` of converted weights.
        repo_id: where the model is going to be on the Hub; the snippets use it.
        dataset: what it was trained on: a data set of the Hub or a name.
        results: what was measured, by name; `measured_on`: on what, by what and when.
        training: hyper-parameters by name.

    Raises:
        ValueError: an unknown licence or preset.
    """
    check_license(license, license_name, license_link)
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, PRESETS))}.")
    data = ModelCardData(
        license=license,
        license_name=license_name,
        license_link=license_link,
        datasets=[dataset] if hub_id(dataset) else None,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["hf_effmodels", "sam-diffsr", "super-resolution", f"arxiv:{_ENTRY.arxiv}"],
    )
    title = repo_id.rpartition("/")[2] if repo_id else preset or _ENTRY.title
    sections = [
        f"# {title}",
        f"Super-resolution ×{pipe.unet.config.scale} of bicubically reduced images by diffusion of the residual, "
        f"after [{_ENTRY.paper}](https://arxiv.org/abs/{_ENTRY.arxiv}) ([official code]({_ENTRY.repository})), "
        "implemented for diffusers by `hf_effmodels`. The repository carries the pipeline's code: it loads with or "
        "without that package.",
        _facts(pipe, license_name or license, license_link),
        _USAGE.format(id=repo_id or LOCAL_PIPELINE_ID),
        _measured(results, measured_on),
        _numbers(preset),
        _training(dataset, training),
        _origin(conversion),
        f"## Citation\n\nPlease cite the paper: {_ENTRY.paper}, arXiv:{_ENTRY.arxiv} "
        f"([BibTeX](https://arxiv.org/bibtex/{_ENTRY.arxiv})).",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n")


def export(pipe, folder: str | os.PathLike, *, overwrite: bool = False, **card) -> Path:
    """Write a `SamDiffSRPipeline` with its model card; `pipe.save_pretrained` writes the same without the card.

    Args:
        pipe: the pipeline.
        folder: where to; written beside under another name first, then renamed.
        overwrite: replace a pipeline of this package that `folder` holds; other files in it stay. Without it the
            folder must be new or empty.
        card: further arguments of `build_card`, such as `license`.

    Raises:
        ValueError: an unknown licence or preset. FileExistsError: `folder` holds something.
    """
    folder = Path(folder).resolve()
    overwrite = overwrite and is_pipeline_folder(folder)
    check_folder(folder, accepts_content=overwrite)
    text = str(build_card(pipe, **card))
    with whole_folder(folder, replaces=_is_ours if overwrite else None) as new:
        pipe.save_pretrained(new)
        (new / "README.md").write_text(text, encoding="utf-8")
    return folder


def _is_ours(name: str, path: Path) -> bool:
    return is_model_file(name) or path.suffix == ".py" and Path(__file__).with_name(path.name).is_file()


def is_pipeline_folder(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a pipeline of this package, as `pipe.save_pretrained` or `export` writes it."""
    try:
        config = json.loads((Path(folder) / MODEL_INDEX).read_bytes())
        return config["_class_name"][-1] == "SamDiffSRPipeline"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _facts(pipe, license: str | None, link: str | None) -> str:
    def millions(model) -> str:
        return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"

    stated = license or NO_LICENSE
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
    if preset is None or not PRESETS[preset].published:
        return ""
    known = PRESETS[preset]
    rows = [
        (p.dataset, f"{p.value:.2f} dB, {known.find('SSIM', p.dataset).value:.4f}")
        for p in known.published
        if p.metric == "PSNR"
    ]
    return "## Published numbers\n\nPSNR and SSIM on luma, by the authors; not measured here.\n\n" + _table(rows)


def _measured(results: Mapping[str, float] | None, measured_on: str | None) -> str:
    if not results:
        return ""
    rows = [(name, f"{value:.2f} dB" if "psnr" in name else f"{value:.4f}") for name, value in results.items()]
    return f"## Measured\n\nOn {measured_on}.\n\n" + _table(rows)


def _training(dataset: str | None, training: Mapping[str, Any] | None) -> str:
    if not training:
        return ""
    return f"## Training\n\nOn {dataset}.\n\n" + _table([(name, f"`{value}`") for name, value in training.items()])


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
