"""The command line of the benchmark."""

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..architecture import PipelineEntry
from ..models import get_config
from ..registry import find
from .peers import PEERS, check, has_peer
from .runs import Row, measure
from .tables import machine, markdown, prepare_folder, write
from .workloads import modes, task_of

#: "openvino" computes in float32, "openvino-default" in whatever OpenVINO prefers on this CPU.
BACKENDS = ("eager", "compile", "onnx", "openvino", "openvino-default")

#: Largest accepted numbers: what is above was meant for something else.
MOST = {
    "batch": 65_536,
    "threads": 1_024,
    "rounds": 1_000_000,
    "image_size": 65_536,
    "length": 1_048_576,
    "new_tokens": 1_048_576,
}

#: Side in pixels of the large image of which a denoising step is timed.
DENOISED_SIZE = 128


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description="Time presets beside their peers, in turns and in random order, each in a process of its own.",
    )
    names, numbers = _list_of(str), _list_of(int)
    parser.add_argument("--presets", type=names, required=True, help="such as ghostnetv3-1.0x,ghostnet-1.0x")
    peers = [name for name in PEERS if name != "ours"]
    parser.add_argument(
        "--against",
        type=names,
        default=[],
        help=f"peers, in eager mode, each beside the presets it has something for: {', '.join(peers)}",
    )
    parser.add_argument("--batch", type=numbers, default=[1], help="batch sizes, such as 1,32")
    parser.add_argument("--threads", type=numbers, default=[1], help="numbers of threads, such as 1,2")
    parser.add_argument("--backends", type=names, default=["eager"], help=f"of our models: {', '.join(BACKENDS)}")
    parser.add_argument(
        "--mode",
        choices=("infer", "train", "generate"),
        default="infer",
        help="a forward pass (of a language model: the prefill), a training step, or generation with a cache",
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
    parser.add_argument("--output", type=Path, help="folder for benchmark.md, .csv, .json and .png")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier benchmark there")
    return parser


def _list_of(kind):
    def parse(text: str) -> list:
        # Each once: a row that is there twice would be one row.
        return list(dict.fromkeys(kind(part.strip()) for part in text.split(",") if part.strip()))

    parse.__name__ = f"list of {kind.__name__}"
    return parse


def plan(arguments: argparse.Namespace) -> list[list[Row]]:
    """The rows of each batch size and number of threads; a ValueError names what is not accepted."""
    _check("against", arguments.against, [name for name in PEERS if name != "ours"])
    _check("backends", arguments.backends, BACKENDS)
    training = arguments.mode == "train"
    if training and arguments.backends != ["eager"]:
        raise ValueError(f"backends: got {','.join(arguments.backends)}, accepted is eager when mode is train.")
    if training and arguments.folded:
        raise ValueError("folded: a folded model cannot be trained; accepted is --no-folded when mode is train.")
    for name, most in MOST.items():
        given = getattr(arguments, name)
        values = given if isinstance(given, list) else [given]
        if given is not None and (not values or min(values) < 1 or max(values) > most):
            raise ValueError(f"{name.replace('_', '-')}: got {given}, accepted are whole numbers from 1 to {most}.")
    if not (arguments.against or arguments.backends) or not arguments.presets:
        raise ValueError("presets and backends: got none, there is nothing to measure.")
    try:
        overrides = json.loads(arguments.model_config)
    except ValueError as error:
        raise ValueError(f"model-config: got {arguments.model_config!r}, which is not valid JSON ({error}).") from None
    if not isinstance(overrides, dict):
        raise ValueError(f"model-config: got {arguments.model_config!r}, accepted is a mapping.")
    for preset in arguments.presets:
        _check_preset(preset, arguments, overrides)
    for peer in arguments.against:
        check(peer, arguments.presets)

    def implementations(preset: str) -> list[tuple[str, str]]:
        peers = [(peer, "eager") for peer in arguments.against if has_peer(peer, preset)]
        return peers + [("ours", backend) for backend in arguments.backends]

    def row(preset: str, peer: str, backend: str, batch: int, threads: int) -> Row:
        shared = {"preset": preset, "peer": peer, "backend": backend, "batch": batch, "threads": threads}
        shared |= {"mode": arguments.mode, "overrides": json.dumps(overrides)}
        task = task_of(preset)
        if task == "super-resolution":
            return Row(**shared, folded=False, image_size=arguments.image_size or DENOISED_SIZE)
        if task in ("text-generation", "image-text-to-text"):
            return Row(**shared, folded=False, length=arguments.length, new_tokens=arguments.new_tokens)
        config = get_config(preset, **overrides)
        seen = config if hasattr(config, "image_size") else config.vision_config
        folds = hasattr(config, "reparameterized") or hasattr(seen, "reparameterized")
        return Row(
            **shared,
            folded=folds and not training and arguments.folded is not False,
            image_size=arguments.image_size or _side(seen.image_size),
            channels=seen.num_channels,
        )

    return [
        [row(preset, *each, batch, threads) for preset in arguments.presets for each in implementations(preset)]
        for batch in arguments.batch
        for threads in arguments.threads
    ]


def _side(size: int | Sequence[int]) -> int:
    """The side of the images that a configuration is for."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1 or not 1 <= min(sides) <= MOST["image_size"]:
        raise ValueError(f"model-config: got image_size {size}, the benchmark's images are squares; see --image-size.")
    return min(sides)


def _check_preset(preset: str, arguments: argparse.Namespace, overrides: dict) -> None:
    if arguments.mode not in modes(preset):
        raise ValueError(f"mode: {preset} has no {arguments.mode}; accepted are {', '.join(modes(preset))}.")
    if task_of(preset) != "image-classification" and arguments.backends != ["eager"]:
        raise ValueError(f"backends: got {','.join(arguments.backends)}, accepted for {preset} is eager.")
    entry, _ = find(preset)
    if not isinstance(entry, PipelineEntry):
        get_config(preset, **overrides)
    elif overrides:
        accepted = [name for name in inspect.signature(entry.create_pipeline).parameters if name != "preset"]
        _check("model-config", list(overrides), accepted)


def _check(argument: str, values: Sequence[str], accepted: Sequence[str]) -> None:
    for value in values:
        if value not in accepted:
            raise ValueError(f"{argument}: got {value!r}, accepted are {', '.join(accepted)}.")


def references(rows: Sequence[Row], name: str | None) -> dict[Row, Row]:
    """Row -> the row its ratio refers to."""
    if name is None:
        # Beside peers each preset by itself; without them the presets beside the first.
        first = {row.preset: row for row in reversed(rows)} if any(row.peer != "ours" for row in rows) else {}
        return {row: first.get(row.preset, rows[0]) for row in rows}
    named = [row for row in rows if name in (row.name, f"{row.peer} {row.backend}")]
    if not named:
        raise ValueError(f"reference: got {name!r}, accepted are {', '.join(sorted({r.name for r in rows}))}.")
    own = {row.preset: row for row in reversed(named)}
    return {row: own.get(row.preset, named[0]) for row in rows}


def run(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, print the table, write the files."""
    arguments = make_parser().parse_args(argv)
    groups = plan(arguments)
    if arguments.output is not None:
        prepare_folder(arguments.output, arguments.overwrite)
    compared = [references(rows, arguments.reference) for rows in groups]
    results = []
    for rows, reference in zip(groups, compared, strict=True):
        sys.stderr.write(f"batch {rows[0].batch}, threads {rows[0].threads}: {len(rows)} rows\n")
        results += measure(rows, arguments.rounds, reference)
    sys.stdout.write(f"{markdown(results)}\n\n")
    names = dict.fromkeys(f"{row.preset} {row.peer} {row.backend}" for row in compared[0].values())
    sys.stdout.write(f"times faster than {', '.join(names)}; {arguments.mode}, {arguments.rounds} rounds; ")
    sys.stdout.write(f"{machine()['processor']}\n")
    if arguments.output is not None:
        for path in write(results, arguments.output):
            sys.stderr.write(f"wrote {path}\n")
