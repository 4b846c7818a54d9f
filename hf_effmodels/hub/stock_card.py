"""The model card of somebody else's model, such as one of transformers' own classes, that was trained here."""

from typing import Any

from huggingface_hub import ModelCard

from .card import inputs_and_outputs, parameters, parts
from .card_text import About, write_card
from .usage import LOCAL_MODEL_ID, PICTURE, snippet

#: Task of the Hub -> what is done with `pipe`; pictures come first where the name of the task has them.
_CALLS = {
    "text-generation": 'print(pipe("Once upon a time", max_new_tokens=20)[0]["generated_text"])',
    "zero-shot-image-classification": 'print(pipe(image, candidate_labels=["cat", "dog"]))',
    "mask-generation": 'print(len(pipe(image)["masks"]))',
    "image-feature-extraction": "features = pipe(image)",
}
_OTHERS = "print(pipe(image))"


def stock_card(
    model: Any,
    task: str,
    *,
    processor: Any = None,
    figures: tuple[str, ...] = (),
    needs_package: bool = False,
    multiply_adds: str | None = None,
    **facts: Any,
) -> ModelCard:
    """The card of a model whose code is not this package's.

    Args:
        model: its type, size and labels are read from it.
        task: the Hub's name of what it is for.
        processor: the image processor or the tokenizer, for the description of the input.
        figures: names of charts that lie beside the card.
        needs_package: it is made of this package's parts around somebody else's network.
        multiply_adds: how many were counted for what.
        facts: what `card_text.write_card` takes beside what a kind of model says of itself.
    """
    name, model_type = type(model).__name__, model.config.model_type
    needs = " It needs the package hf_effmodels, imported before it is loaded." if needs_package else ""
    rows = [("Type", f"{name} ({model_type})"), *parameters(model), *parts(model)]
    if multiply_adds:
        rows.append(("Multiply-adds", multiply_adds))
    library = "hf_effmodels" if needs_package else "transformers"
    about = About(
        title=name,
        introduction=f"A `{name}`, trained by `hf-effmodels train`.{needs}",
        library=library,
        task=task,
        tags=("hf_effmodels", model_type),
        facts=(*rows, *inputs_and_outputs(model, processor)),
        usage=stock_usage(task, library),
        figures=figures,
    )
    return write_card(about, **facts)


def stock_usage(task: str, library: str | None, model_id: str = LOCAL_MODEL_ID) -> str:
    """The section with a snippet, for a repository on the Hub, or the folder it lies in."""
    lines = ["import hf_effmodels  # registers the architecture with transformers"] * (library == "hf_effmodels")
    takes_image = task != "text-generation"
    lines += ["from PIL import Image"] * takes_image + ["from transformers import pipeline", ""]
    lines += [f'model_id = "{model_id}"', f'pipe = pipeline("{task}", model=model_id)']
    lines += [PICTURE] * takes_image
    here = "The snippet runs in this folder; elsewhere write its path for `model_id`.\n\n"
    where = here if model_id == LOCAL_MODEL_ID else ""
    return "## Usage\n\n" + where + snippet([*lines, _CALLS.get(task, _OTHERS)])
