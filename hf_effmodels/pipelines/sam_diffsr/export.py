"""Write a pipeline as a folder that is ready for the Hub: weights, configurations, code and model card."""

import os
from pathlib import Path

from huggingface_hub import ModelCard

from ...hub.pipeline_card import PipelineFacts, millions, write_pipeline_card
from ...hub.pipelines import write_pipeline
from . import ENTRIES

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


def build_card(pipe, **card) -> ModelCard:
    """The model card of a `SamDiffSRPipeline`; `card`: `license`, `preset`, `results` and further arguments of
    `hub.pipeline_card.write_pipeline_card`.

    Raises:
        ValueError: an unknown licence or preset.
    """
    about = PipelineFacts(
        introduction=f"Super-resolution ×{pipe.unet.config.scale} of bicubically reduced images by diffusion of the "
        "residual",
        tags=("sam-diffsr", "super-resolution"),
        facts=(
            ("Denoiser", f"U-Net, {millions(pipe.unet)} parameters"),
            ("Condition encoder", f"RRDB, {millions(pipe.condition_encoder)} parameters"),
            ("Timesteps of training", str(pipe.scheduler.config.num_train_timesteps)),
        ),
        weights=pipe.unet,
        usage=_USAGE,
    )
    return write_pipeline_card(_ENTRY, about, **card)


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
