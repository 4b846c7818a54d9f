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
from .configuration_delvm import PRESETS

(_ENTRY,) = ENTRIES

_USAGE = """## Use

```python
from diffusers import DiffusionPipeline
from PIL import Image

pipe = DiffusionPipeline.from_pretrained("{id}", trust_remote_code=True)
pairs = [(Image.open("image.png"), Image.open("answer.png"))]
answer = pipe(prompt_images=pairs, image=Image.open("another.png")).images[0]
```

Up to {pairs} pairs say what is to be done. Where `hf_effmodels` is installed no code of this repository runs:

```python
from hf_effmodels.pipelines import DelvmPipeline

pipe = DelvmPipeline.from_pretrained("{id}")
```

The parts are a stock `VQModel` of diffusers (`subfolder="vqvae"`) and a stock `LlamaForCausalLM` of transformers
(`subfolder="language_model"`)."""


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
    """The model card of a `DelvmPipeline`.

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
    tokenizer = pipe.image_tokenizer
    about = About(
        title=repo_id.rpartition("/")[2] if repo_id else preset or _ENTRY.title,
        introduction="Visual prompting: (image, answer) pairs say what is to be done to a new image, whose answer a "
        f"causal transformer writes token by token, after [{_ENTRY.paper}](https://arxiv.org/abs/{_ENTRY.arxiv}) "
        f"([official code]({_ENTRY.repository})), implemented for diffusers by `hf_effmodels`. The repository carries "
        "the pipeline's code: it loads with or without that package.",
        library="diffusers",
        task=_ENTRY.tasks[0].pipeline_tag,
        tags=("hf_effmodels", "delvm", "visual-prompting", f"arxiv:{_ENTRY.arxiv}"),
        facts=(
            ("Language model", f"LLaMA, {_millions(pipe.language_model)} parameters"),
            ("Image tokenizer", f"VQGAN, {_millions(pipe.vqvae)} parameters, {tokenizer.vocab_size} codes"),
            ("Images", f"{tokenizer.image_size}×{tokenizer.image_size}, {tokenizer.tokens_per_image} tokens each"),
            ("Pairs of a prompt", f"up to {pipe.most_pairs}"),
            ("Weights", str(pipe.language_model.dtype).removeprefix("torch.") + ", safetensors"),
        ),
        usage=_USAGE.format(id=repo_id or LOCAL_PIPELINE_ID, pairs=pipe.most_pairs),
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
    """Write a `DelvmPipeline` with its model card; `pipe.save_pretrained` writes the same without the card.

    Args:
        pipe: the pipeline.
        folder: where to; written beside under another name first, then renamed.
        overwrite: replace a pipeline of this kind that `folder` holds; other files in it stay. Without it the folder
            must be new or empty.
        card: further arguments of `build_card`, such as `license`.

    Raises:
        ValueError: an unknown licence or preset. FileExistsError: `folder` holds something.
    """
    return write_pipeline(pipe, folder, str(build_card(pipe, **card)), overwrite)
