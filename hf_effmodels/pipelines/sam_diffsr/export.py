"""Write a pipeline as a folder that is ready for the Hub: weights, configurations, code and model card."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ...hub.card import check_place
from ...hub.card_text import About, write_card
from ...hub.pipelines import LOCAL_PIPELINE_ID, write_pipeline
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
    results: Mapping[str, float] | Iterable[Mapping[str, Any]] | None = None,
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
        results: what was measured, as for `hub.build_card`.
        training: hyper-parameters by name.

    Raises:
        ValueError: an unknown licence or preset.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, PRESETS))}.")
    check_place(repo_id)
    known = PRESETS[preset] if preset else None
    about = About(
        title=repo_id.rpartition("/")[2] if repo_id else preset or _ENTRY.title,
        introduction=f"Super-resolution ×{pipe.unet.config.scale} of bicubically reduced images by diffusion of the "
        f"residual, after [{_ENTRY.paper}](https://arxiv.org/abs/{_ENTRY.arxiv}) ([official code]"
        f"({_ENTRY.repository})), implemented for diffusers by `hf_effmodels`. The repository carries the pipeline's "
        "code: it loads with or without that package.",
        library="diffusers",
        task=_ENTRY.tasks[0].pipeline_tag,
        tags=("hf_effmodels", "sam-diffsr", "super-resolution", f"arxiv:{_ENTRY.arxiv}"),
        facts=(
            ("Denoiser", f"U-Net, {_millions(pipe.unet)} parameters"),
            ("Condition encoder", f"RRDB, {_millions(pipe.condition_encoder)} parameters"),
            ("Timesteps of training", str(pipe.scheduler.config.num_train_timesteps)),
            ("Weights", str(pipe.unet.dtype).removeprefix("torch.") + ", safetensors"),
        ),
        usage=_USAGE.format(id=repo_id or LOCAL_PIPELINE_ID),
        published=known.published if known else (),
        entry=_ENTRY,
        preset=known,
    )
    return write_card(
        about,
        license=license,
        license_name=license_name,
        license_link=license_link,
        dataset=dataset,
        results=results,
        training=training,
        conversion=conversion,
    )


def _millions(model) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"


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
    return write_pipeline(pipe, folder, str(build_card(pipe, **card)), overwrite)
