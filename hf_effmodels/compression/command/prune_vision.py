"""`hf-effmodels prune` of a vision transformer: heads, neurons and layers by what they say on a folder of pictures."""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...edge_pictures import find_pictures
from .cards import card_of_smaller

if TYPE_CHECKING:
    import torch

#: Options that are of language models alone, with the values that leave them out.
_OF_LANGUAGE = {
    "hidden": None,
    "key_value_heads": None,
    "candidates": 1,
    "retraining_steps": 0,
    "method": "activation",
    "rescale_norms": False,
}


def check_options(arguments) -> None:
    """ValueError of options that are of language models alone, and where no pictures are named."""
    for option, off in _OF_LANGUAGE.items():
        if getattr(arguments, option) != off:
            raise ValueError(
                f"{option}: got {getattr(arguments, option)}, which is for language models; of vision transformers "
                "layers, heads and neurons (--intermediate) get fewer."
            )
    if arguments.images is None:
        raise ValueError("--images is missing: name a folder of pictures like those that the model is for.")
    find_images(arguments)


def find_images(arguments) -> list[Path]:
    """The pictures of `--images`; ValueError or OSError where there are too few or none."""
    try:
        return find_pictures(arguments.images)
    except (OSError, ValueError) as error:
        raise type(error)(f"--images{str(error).removeprefix('calibration')}") from error


def run(arguments, config, report_file: str, what: str) -> dict:
    """Prune and write; see `prune.main`. `what` has been done, for the card."""
    from ..._written import rewritten
    from ..pruning.vision import check_vision, choose_vision_sizes, prune_vision_transformer
    from .inheritance import layer_numbers

    check_vision(config)
    check_options(arguments)
    files = find_images(arguments)
    model, processor = _load(arguments.model)
    model.to(arguments.device)
    sizes = {
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.heads,
        "intermediate_size": arguments.intermediate,
    }
    layers = layer_numbers(arguments.select_layers)
    if not isinstance(layers, str):
        sizes["num_hidden_layers"] = sizes["num_hidden_layers"] or len(layers)
    budget = {
        "target_parameters": arguments.target_parameters,
        "way": arguments.way,
        "tolerance": arguments.tolerance,
    }
    choose_vision_sizes(model, **budget, **sizes)  # what no sizes fulfil is said before any picture is read
    random.Random(0).shuffle(files)
    files = files[: arguments.calibration_batches * arguments.batch_size]
    smaller, report = prune_vision_transformer(
        model, _batches(files, processor, model.config.num_channels, arguments.batch_size), **budget, **sizes,
        layers=layers,
    )  # fmt: skip
    with rewritten(Path(arguments.out), "prune") as folder:
        smaller.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / report_file).write_text(json.dumps(asdict(report)) + "\n", encoding="utf-8")
        rows = [("Parameters before", f"{report.of / 1e6:.3f} M")]
        rows += [("Layers kept", ", ".join(map(str, report.kept_layers)))]
        if report.divergence is not None:  # of a network without a head
            rows += [("Divergence from the whole model on the calibration", f"{report.divergence:.4g}")]
        is_classifier = type(smaller).__name__.endswith("ForImageClassification")
        task = "image-classification" if is_classifier else "image-feature-extraction"
        card = card_of_smaller(smaller, processor, arguments.model, what, rows, task)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return {
        "parameters": report.parameters,
        "of": report.of,
        **report.sizes,
        "divergence": report.divergence,
        "kept_layers": report.kept_layers,
        "folder": arguments.out,
    }


def _load(name: str):
    """A classifier, or a network without head, with all of its weights, and its image processor."""
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

    from ...hub.ids import reading
    from ...hub.whole import load_whole
    from .models import load_config

    architecture = (load_config(name, "model").architectures or [""])[0]
    if "ForImageClassification" in architecture:
        auto = AutoModelForImageClassification
    elif architecture.endswith("Model"):
        auto = AutoModel
    else:
        raise ValueError(f"model: {name} is a {architecture or 'model of unknown class'}, accepted are classifiers "
                         "and networks without head.")  # fmt: skip
    model = load_whole(auto, "model", name, dtype="auto")
    with reading("model", name):
        return model, AutoImageProcessor.from_pretrained(name)


def _batches(files, processor, num_channels: int, size: int) -> Iterator["torch.Tensor"]:
    from ...images import read_image

    for start in range(0, len(files), size):
        pictures = [read_image(file, num_channels) for file in files[start : start + size]]
        yield processor(pictures, return_tensors="pt")["pixel_values"]
