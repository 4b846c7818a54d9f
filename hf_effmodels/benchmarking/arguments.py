"""The arguments of the benchmark, read without what they name."""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .._kinds import check_head, tasks_of_folder
from .._model_place import check_model
from ..models import check_known, tasks_in_source
from ..training.run.source import keys_of

#: "openvino" computes in float32, "openvino-default" in whatever OpenVINO prefers on this CPU.
BACKENDS = ("eager", "compile", "onnx", "openvino", "openvino-default")

MODES = ("infer", "train", "generate", "detect")

#: Task -> the Auto class that loads its models, where they are no presets.
AUTO_CLASSES = {
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "text-generation": "AutoModelForCausalLM",
}

#: Task -> the modes that its presets can be timed in.
MODES_OF = {
    "image-classification": ("infer", "train"),
    "text-generation": ("infer", "train", "generate"),
    "visual-prompting": ("infer", "train", "generate"),
    "image-text-to-text": ("infer", "train", "generate"),
    "super-resolution": ("infer", "train"),
    "object-detection": ("infer", "train", "detect"),
    "image-segmentation": ("infer", "train"),
    "mask-generation": ("infer", "train"),
    "zero-shot-image-classification": ("infer", "train"),
    "masked-image-modeling": ("infer", "train"),
    "layer": ("infer", "train"),
}

#: Largest accepted numbers: what is above was meant for something else.
MOST = {
    "batch": 65_536,
    "threads": 1_024,
    "rounds": 1_000_000,
    "image_size": 65_536,
    "length": 1_048_576,
    "new_tokens": 1_048_576,
}


def make_parser(prog: str = "benchmark.py") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Time presets beside their peers, in turns and in random order, each in a process of its own.",
    )
    names, numbers = _list_of(str), _list_of(int)
    layers = keys_of("LAYERS", Path(__file__).with_name("layers.py"))
    parser.add_argument(
        "--presets",
        type=names,
        required=True,
        help="presets, folders, ids of the Hub, exported folders: ghostnetv3-1.0x,out,edge; and single layers: "
        f"{', '.join(layers)}",
    )
    parser.add_argument(
        "--against",
        type=names,
        default=[],
        help=f"peers, in eager mode, each beside the presets it has something for: {', '.join(_peers())}",
    )
    parser.add_argument("--batch", type=numbers, default=[1], help="batch sizes, such as 1,32")
    parser.add_argument("--threads", type=numbers, default=[1], help="numbers of threads, such as 1,2")
    parser.add_argument("--backends", type=names, default=["eager"], help=f"of our models: {', '.join(BACKENDS)}")
    parser.add_argument(
        "--mode",
        type=_list_of(str, MODES),
        default=["infer"],
        help=f"{', '.join(MODES)}: a forward pass (of a language model: the prefill), a training step (of a layer: "
        "both passes), generation with a cache, or (of a detector) everything from image to boxes",
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed runs of each row")
    parser.add_argument("--image-size", type=int, help="side of the images in pixels (default: the preset's)")
    parser.add_argument("--length", type=int, default=256, help="tokens of the text, or of the prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens to generate")
    parser.add_argument(
        "--model-config", default="{}", help="changes of the configuration, as JSON: '{\"width_multiplier\": 0.5}'"
    )
    parser.add_argument(
        "--folded",
        action=argparse.BooleanOptionalAction,
        help="fold before measuring (default: yes; no when training)",
    )
    parser.add_argument(
        "--reference",
        help='row that ratios refer to, such as "timm eager" (default: the first peer of each preset, else our first)',
    )
    of_data = parser.add_argument_group(
        "accuracy, of folders, ids of the Hub and exported folders that classify images"
    )
    for name, text in (
        ("dataset", "as of `hf-effmodels evaluate`: on the Hub, a folder, imagefolder with --data-dir, or digits"),
        ("dataset_config", "configuration of the data set on the Hub"),
        ("dataset_revision", "revision of the data set on the Hub"),
        ("data_files", "a path, a pattern, or {split: paths}"),
        ("data_dir", "folder of the files"),
        ("eval_split", "split to measure on (default: validation or test)"),
        ("label_column", "column of the labels (default: the only one with class names, or 'label')"),
        ("label_mapping", "the model's names for the data set's classes: '{tabby: cat}'"),
    ):
        of_data.add_argument(*_spellings(name), metavar="DIR" if name == "data_dir" else "NAME", help=text)
    of_data.add_argument(
        *_spellings("eval_fraction"), type=float, metavar="SHARE", help="the share that the training held out"
    )
    of_data.add_argument(
        *_spellings("eval_holdout"), type=int, metavar="N", help="the number of pictures that the training held out"
    )
    of_data.add_argument(*_spellings("max_eval_samples"), type=int, metavar="N", help="so many, evenly spread")
    parser.add_argument("--output", type=Path, help="folder for benchmark.md, .csv, .json and .png")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier benchmark there")
    return parser


def check(arguments: argparse.Namespace) -> dict:
    """What can be said without the models: ValueError names what is not accepted.

    Returns:
        The changes of the configuration, `--model-config`.
    """
    for name, accepted in (("against", _peers()), ("backends", BACKENDS)):
        for value in getattr(arguments, name):
            if value not in accepted:
                raise ValueError(f"--{name}: got {value!r}, accepted are {', '.join(accepted)}.")
    for mode in arguments.mode:
        if mode in ("train", "detect") and arguments.backends != ["eager"]:
            raise ValueError(f"--backends: got {','.join(arguments.backends)}, accepted is eager when mode is {mode}.")
    if "bare-convolutions" in arguments.against and set(arguments.mode) != {"infer"}:
        raise ValueError(f"--mode: got {','.join(arguments.mode)}, accepted is infer against bare-convolutions.")
    if "train" in arguments.mode and arguments.folded:
        raise ValueError("--folded: a folded model cannot be trained; accepted is --no-folded when mode is train.")
    for name, most in MOST.items():
        given = getattr(arguments, name)
        values = given if isinstance(given, list) else [given]
        if given is not None and (not values or min(values) < 1 or max(values) > most):
            raise ValueError(f"--{name.replace('_', '-')}: got {given}, accepted are whole numbers from 1 to {most}.")
    if not (arguments.against or arguments.backends) or not arguments.presets:
        raise ValueError("--presets and --backends: got none, there is nothing to measure.")
    given = arguments.model_config
    try:
        overrides = json.loads(given)
    except ValueError as error:
        raise ValueError(f"--model-config: got {given!r}, which is not valid JSON ({error}).") from None
    if not isinstance(overrides, dict):
        raise ValueError(f"--model-config: got {given!r}, accepted is a mapping.")
    return overrides


def _peers() -> list[str]:
    """By their names alone: importing them takes torch, and seconds."""
    return [name for name in keys_of("PEERS", Path(__file__).with_name("peers.py")) if name != "ours"]


def check_modes(name: str, modes: Iterable[str], accepted: Sequence[str]) -> None:
    """ValueError if a preset or a place cannot be timed in a mode."""
    for mode in modes:
        if mode not in accepted:
            raise ValueError(f"--mode: {name} has no {mode}; accepted are {', '.join(accepted)}.")


def check_names(names: Iterable[str], modes: Iterable[str]) -> None:
    """ValueError or OSError where one is no layer, no preset and can be no place, or a preset that has no such mode;
    nothing that runs it is loaded."""
    layers = keys_of("LAYERS", Path(__file__).with_name("layers.py"))
    for name in names:
        if name in layers:
            continue
        if os.path.isdir(name):
            check_head("--presets", name, *AUTO_CLASSES.values(), weights=False)
            own = tasks_of_folder(name)
            if own and not {*own} & {*AUTO_CLASSES}:
                raise for_another_task(name, f"for {' and '.join(own)}")
        elif "/" in name:
            check_model("--presets", name)
        else:
            check_known(name)
            check_modes(name, modes, next((MODES_OF.get(task, MODES) for task in tasks_in_source(name)[:1]), MODES))


def for_another_task(name: str, of: str) -> ValueError:
    """What is said of a model that is no preset, and `of` a task that is not measured."""
    return ValueError(f"--presets: {name} is {of}; accepted are models for {', '.join(AUTO_CLASSES)}.")


def _spellings(name: str) -> list[str]:
    """As `train` and `evaluate` spell an option, and as this command does."""
    return list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


def _list_of(kind, accepted: tuple[str, ...] = ()):
    def parse(text: str) -> list:
        # Each once: a row that is there twice would be one row.
        values = list(dict.fromkeys(kind(part.strip()) for part in text.split(",") if part.strip()))
        if accepted and not (values and set(values) <= set(accepted)):
            raise argparse.ArgumentTypeError(f"got {text!r}, accepted are {', '.join(accepted)}")
        return values

    parse.__name__ = f"list of {kind.__name__}"
    return parse
