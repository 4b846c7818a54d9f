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


def build_card(pipe, **card) -> ModelCard:
    """The model card of a `DelvmPipeline`; `card`: `license`, `preset`, `results` and further arguments of
    `hub.pipeline_card.write_pipeline_card`.

    Raises:
        ValueError: an unknown licence or preset.
    """
    tokenizer = pipe.image_tokenizer
    about = PipelineFacts(
        introduction="Visual prompting: (image, answer) pairs say what is to be done to a new image, whose answer a "
        "causal transformer writes token by token",
        tags=("delvm", "visual-prompting"),
        facts=(
            ("Language model", f"LLaMA, {millions(pipe.language_model)} parameters"),
            ("Image tokenizer", f"VQGAN, {millions(pipe.vqvae)} parameters, {tokenizer.vocab_size} codes"),
            ("Images", f"{tokenizer.image_size}×{tokenizer.image_size}, {tokenizer.tokens_per_image} tokens each"),
            ("Pairs of a prompt", f"up to {pipe.most_pairs}"),
        ),
        weights=pipe.language_model,
        usage=_USAGE.replace("{pairs}", str(pipe.most_pairs)),
    )
    return write_pipeline_card(_ENTRY, about, **card)


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
