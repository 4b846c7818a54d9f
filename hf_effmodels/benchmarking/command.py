"""The command line of the benchmark."""

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from ..architecture import PipelineEntry
from ..models import get_config
from ..registry import find
from .accuracy import accuracies
from .arguments import MOST, check_modes
from .arguments import check as check_arguments
from .layers import LAYERS
from .peers import check, has_peer
from .places import channels_of, config_of, is_foldable, is_place, program_format, side_of
from .runs import Row, measure
from .tables import machine, markdown, prepare_folder, write
from .workloads import backends, modes, task_of

#: Side in pixels of the large image of which a denoising step is timed.
DENOISED_SIZE = 128


def plan(arguments: argparse.Namespace) -> list[list[Row]]:
    """The rows of each batch size, number of threads and mode; a ValueError names what is not accepted."""
    overrides = check_arguments(arguments)
    for preset in arguments.presets:
        _check_preset(preset, arguments, overrides)
    for peer in arguments.against:
        check(peer, arguments.presets)

    def implementations(preset: str) -> list[tuple[str, str]]:
        peers = [(peer, "eager") for peer in arguments.against if has_peer(peer, preset)]
        return peers + [("ours", backend) for backend in _backends(preset, arguments)]

    def row(preset: str, peer: str, backend: str, batch: int, threads: int, mode: str) -> Row:
        shared = {"preset": preset, "peer": peer, "backend": backend, "batch": batch, "threads": threads}
        shared |= {"mode": mode, "overrides": json.dumps(overrides)}
        task, training = task_of(preset), mode == "train"
        if task == "layer":
            layer = LAYERS[preset]
            return Row(**shared, folded=False, image_size=layer.side, channels=layer.in_channels)
        if task == "super-resolution":
            return Row(**shared, folded=False, image_size=arguments.image_size or DENOISED_SIZE)
        if task in ("text-generation", "visual-prompting", "image-text-to-text"):
            return Row(**shared, folded=False, length=arguments.length, new_tokens=arguments.new_tokens)
        config = config_of(preset) if is_place(preset) else get_config(preset, **overrides)
        if is_place(preset):
            side = _side(side_of(preset, config)) if arguments.image_size is None else arguments.image_size
            folded = is_foldable(config) and not training and arguments.folded is not False
            return Row(**shared, folded=folded, image_size=side, channels=channels_of(config))
        seen = config if hasattr(config, "image_size") else config.vision_config
        folds = hasattr(config, "reparameterized") or hasattr(seen, "reparameterized")
        return Row(
            **shared,
            folded=folds and not training and arguments.folded is not False,
            image_size=arguments.image_size or _side(seen.image_size),
            channels=seen.num_channels,
            length=arguments.length if task == "zero-shot-image-classification" else None,
        )

    return [
        [row(preset, *each, batch, threads, mode) for preset in arguments.presets for each in implementations(preset)]
        for batch in arguments.batch
        for threads in arguments.threads
        for mode in arguments.mode
    ]


def _backends(preset: str, arguments: argparse.Namespace) -> Sequence[str]:
    """The backends of a row; a program has its own, which it need not be asked for."""
    if (own := program_format(preset)) is not None:
        fitting = [name for name in arguments.backends if name.startswith(own)]
        return fitting or ([own] if "eager" in arguments.backends else arguments.backends)
    return arguments.backends


def _side(size: int | Sequence[int]) -> int:
    """The side of the images that a configuration is for."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1 or not 1 <= min(sides) <= MOST["image_size"]:
        raise ValueError(f"--model-config: got image_size {size}, images are squares here; see --image-size.")
    return min(sides)


def _check_preset(preset: str, arguments: argparse.Namespace, overrides: dict) -> None:
    check_modes(preset, arguments.mode, modes(preset))
    if preset in LAYERS:
        _check("backends", arguments.backends, backends(preset))
        if overrides or arguments.image_size is not None:
            raise ValueError(f"--model-config, --image-size: go with networks; {preset} has its sizes.")
        return
    if is_place(preset):
        if overrides:
            raise ValueError(f"--model-config: goes with presets; {preset} has its configuration.")
        _check("backends", _backends(preset, arguments), backends(preset))
        return
    _check("backends", arguments.backends, backends(preset))
    entry, _ = find(preset)
    if not isinstance(entry, PipelineEntry):
        get_config(preset, **overrides)
    elif overrides:
        accepted = [name for name in inspect.signature(entry.create_pipeline).parameters if name != "preset"]
        _check("model-config", list(overrides), accepted)


def _check(argument: str, values: Sequence[str], accepted: Sequence[str]) -> None:
    for value in values:
        if value not in accepted:
            raise ValueError(f"--{argument}: got {value!r}, accepted are {', '.join(accepted)}.")


def references(rows: Sequence[Row], name: str | None) -> dict[Row, Row]:
    """Row -> the row its ratio refers to."""
    if name is None:
        # Beside peers each preset by itself; without them the presets beside the first.
        first = {row.preset: row for row in reversed(rows)} if any(row.peer != "ours" for row in rows) else {}
        return {row: first.get(row.preset, rows[0]) for row in rows}
    named = [row for row in rows if name in (row.name, f"{row.peer} {row.backend}")]
    if not named:
        raise ValueError(f"--reference: got {name!r}, accepted are {', '.join(sorted({r.name for r in rows}))}.")
    own = {row.preset: row for row in reversed(named)}
    return {row: own.get(row.preset, named[0]) for row in rows}


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table, write the files."""
    groups = plan(arguments)
    if arguments.output is not None:
        prepare_folder(arguments.output, arguments.overwrite)
    compared = [references(rows, arguments.reference) for rows in groups]
    right = accuracies(arguments)
    results = []
    for rows, reference in zip(groups, compared, strict=True):
        sys.stderr.write(f"batch {rows[0].batch}, threads {rows[0].threads}, {rows[0].mode}: {len(rows)} rows\n")
        for result in measure(rows, arguments.rounds, reference):
            known = right.get(result.row.preset) if result.row.peer == "ours" else None
            results.append(replace(result, accuracy=known))
    sys.stdout.write(f"{markdown(results)}\n\n")
    names = dict.fromkeys(f"{row.preset} {row.peer} {row.backend}" for row in compared[0].values())
    sys.stdout.write(f"times faster than {', '.join(names)}; {', '.join(arguments.mode)}, {arguments.rounds} rounds; ")
    sys.stdout.write(f"{machine()['processor']}\n")
    if arguments.output is not None:
        for path in write(results, arguments.output):
            sys.stderr.write(f"wrote {path}\n")
