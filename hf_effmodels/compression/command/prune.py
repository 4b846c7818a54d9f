"""`hf-effmodels prune MODEL OUT ...`: a language model or a vision transformer within a budget of parameters."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..._command_line import Parser, show
from ..._option_types import count, finite, from_zero, number
from ..._places import check_apart
from ..._written import OVERWRITE, check_free, check_rewritable, rewritten
from ...training import set_up_logging
from ..pruning.choices import LANGUAGE_MODELS, METHODS, VISION_TRANSFORMERS, WAYS, check_choice
from . import prune_vision
from .cards import card_of_smaller
from .corpus import add_corpus, check_named
from .inheritance import calibration_batches, layer_numbers, tokenizer_of
from .models import check_device, check_device_name, check_kind, load_config, load_model
from .words import as_table, in_words_of_the_command

REPORT = "pruning.json"
#: Arguments without an option.
PLACES = ("model", "out")
#: What the functions call an option -> the option.
_SIZES = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "intermediate_size": "intermediate",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key_value_heads",
}


def main(argv: Sequence[str]) -> None:
    """Prune a model and write it.

    Raises:
        ValueError, OSError: for wrong input, before any long work; nothing has been written then.
    """
    arguments = _parser().parse_args(list(argv))
    set_up_logging()
    try:
        report = _run(arguments)
    except (ValueError, OSError) as error:
        message = str(error)
        for ours, theirs in _SIZES.items():
            message = message.replace(f"{ours}:", f"{theirs}:", 1) if message.startswith(ours) else message
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(in_words_of_the_command(message, vars(arguments), PLACES)) from error
    if os.environ.get("RANK", "0") == "0":
        show((json.dumps(report, indent=2) if arguments.json else as_table(report)) + "\n")


def share_or_number(text: str) -> float:
    """A share such as 0.5 or 50%, or a number such as 15M."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if 0 < share < 1:
        return share
    if text.endswith("%"):
        raise argparse.ArgumentTypeError(f"got {text}, accepted are shares between 0% and 100%")
    return number(text)


def what_was_done(retraining_steps: int) -> str:
    """For the card."""
    since = f"been retrained for {retraining_steps} steps" if retraining_steps else "not been trained since"
    return f"`hf-effmodels prune` has taken out what said least on the calibration data; it has {since}."


def one_size(text: str) -> int:
    """A whole number from 1, the same for all layers."""
    if "," in text:
        raise argparse.ArgumentTypeError(
            f"got {text}, accepted is one number for all layers: the layers of these architectures do not read "
            "per_layer_config"
        )
    return count(text)


def _parser() -> Parser:
    parser = Parser(
        prog="hf-effmodels prune",
        description="A smaller language model or vision transformer out of a trained one, of the same class "
        "(Minitron, https://arxiv.org/abs/2407.14679): neurons, heads, channels and layers that say least go.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hub id or a folder: LLaMA, Mistral, Qwen2, Qwen3, Gemma, Phi, PanGu-π; "
        "ViT, DeiT, ViTMSN, I-JEPA, BEiT",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write: new, empty, or with --overwrite")
    parser.add_argument(
        "--target-parameters", type=share_or_number, help="a share such as 0.5, or a number such as 15M"
    )
    parser.add_argument("--way", default="width", help=f"what gets smaller for it: {', '.join(WAYS)}")
    parser.add_argument("--tolerance", type=finite, default=0.05, help="share by which the budget may be missed")
    for option in _SIZES.values():
        parser.add_argument(f"--{option.replace('_', '-')}", type=one_size, help="size of the smaller model")
    parser.add_argument("--candidates", type=count, default=1, help="shapes within the budget that are compared")
    parser.add_argument(
        "--retraining-steps", type=from_zero, default=0, help="steps of distillation of each before they are compared"
    )
    parser.add_argument("--learning-rate", type=finite, default=1e-4, help="of those steps")
    parser.add_argument("--method", default="activation", help=", ".join(METHODS))
    parser.add_argument("--select-layers", default="influence", help="influence, importance, ends, or such as 0,1,5")
    parser.add_argument("--rescale-norms", action="store_true", help="let norms keep their scale over fewer channels")
    parser.add_argument("--calibration-batches", type=count, default=16, help="batches that are looked at")
    parser.add_argument("--batch-size", type=count, default=8, help="sequences of a calibration batch")
    parser.add_argument("--block-size", type=count, default=256, help="tokens of a calibration sequence")
    parser.add_argument("--images", help="folder of pictures that a vision transformer is calibrated on")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, ...")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_corpus(parser, "document")
    return parser


def _check(arguments) -> None:
    """What names and texts tell before torch is there."""
    for name, accepted in (("way", WAYS), ("method", METHODS)):
        check_choice(name, getattr(arguments, name), accepted)
    layers = layer_numbers(arguments.select_layers)
    check_device_name(arguments.device)
    if arguments.dataset is not None:
        check_named(arguments)
    model_type = check_kind(arguments.model, (*LANGUAGE_MODELS, *VISION_TRANSFORMERS), "model")
    if model_type in VISION_TRANSFORMERS:
        prune_vision.check_options(arguments)
    elif model_type is not None:
        if arguments.images is not None:
            accepted = ", ".join(VISION_TRANSFORMERS)
            raise ValueError(f"--images: {arguments.model} is no vision transformer; accepted are {accepted}.")
        check_named(arguments)
        sizes = [getattr(arguments, option) for option in _SIZES.values()]
        if arguments.target_parameters is None and not any(sizes) and isinstance(layers, str):
            raise ValueError("target_parameters: got None and no sizes, accepted are a share, a number, or sizes.")


def _run(arguments) -> dict:
    output = Path(arguments.out)
    check_apart("out", output, "MODEL", arguments.model, inside=False)
    try:
        check_rewritable(output, "prune", ("config.json", "model.safetensors", "README.md", REPORT))
    except FileExistsError as error:
        raise ValueError(f"out: {str(error).removeprefix('folder: ')}") from None
    check_free("out", output, arguments.overwrite)
    _check(arguments)
    from ..pruning.inheritance import check_inheritance
    from ..pruning.minitron import choose_shapes, prune

    config = load_config(arguments.model, "model")
    check_device(arguments.device)
    if config.model_type in VISION_TRANSFORMERS:
        return prune_vision.run(arguments, config, REPORT, what_was_done(0))
    sizes = {name: getattr(arguments, option) for name, option in _SIZES.items()}
    how = {
        "layers": layer_numbers(arguments.select_layers),
        "method": arguments.method,
        "rescale_norms": arguments.rescale_norms,
    }
    check_inheritance(config, **how, **sizes)
    model = load_model(arguments.model, "model").to(arguments.device)
    budget = {
        "target_parameters": arguments.target_parameters,
        "way": arguments.way,
        "tolerance": arguments.tolerance,
        "candidates": arguments.candidates,
    }
    choose_shapes(model, **budget, **how, **sizes)  # what no shape fulfils is said before any text is read
    tokenizer = tokenizer_of(arguments.model, config, True, "model")
    smaller, report = prune(
        model,
        calibration_batches(arguments, tokenizer),
        retraining_steps=arguments.retraining_steps,
        learning_rate=arguments.learning_rate,
        progress=sys.stderr.isatty(),
        **budget,
        **how,
        **sizes,
    )
    with rewritten(output, "prune") as folder:
        smaller.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / REPORT).write_text(json.dumps(report.to_dict()) + "\n", encoding="utf-8")
        rows = [("Parameters before", f"{report.of / 1e6:.3f} M")]
        rows += [("Layers kept", ", ".join(map(str, report.made_of.layers)))]
        rows += [("Loss on the calibration", f"{report.loss:.4f}, of the whole model {report.loss_of:.4f}")]
        card = card_of_smaller(
            smaller, tokenizer, arguments.model, what_was_done(arguments.retraining_steps), rows, "text-generation"
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return {
        "parameters": report.parameters,
        "of": report.of,
        **report.sizes,
        "loss": report.loss,
        "loss_of_the_whole": report.loss_of,
        "candidates": len(report.candidates),
        "kept_layers": report.made_of.layers,
        "folder": str(output),
    }
