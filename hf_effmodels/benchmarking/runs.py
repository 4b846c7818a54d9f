"""Rows of a benchmark, run in turns: round by round in random order, so that all rows meet the same machine."""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tqdm import tqdm

from .counting import count_preset
from .places import count_place, is_place
from .workloads import task_of


@dataclass(frozen=True)
class Row:
    """What is timed.

    Attributes:
        mode: "infer" (of a language model: the prefill), "train" (a training step) or "generate".
        preset: or a folder, an id of the Hub, or a layer.
        overrides: changes of the preset's configuration, as JSON.
        image_size, channels: of the images, for models that take them (of a denoiser: of the large image).
        length, new_tokens: of the prompt and of what is generated, for models that take text.
    """

    preset: str
    peer: str
    backend: str
    batch: int
    threads: int
    mode: str
    folded: bool
    overrides: str = "{}"
    image_size: int | None = None
    channels: int = 3
    length: int | None = None
    new_tokens: int | None = None

    @property
    def name(self) -> str:
        return f"{self.preset} {self.peer} {self.backend}"


@dataclass(frozen=True)
class Result:
    """Times in milliseconds of one call, over all rounds.

    Attributes:
        median, quartile_1, quartile_3: of the wall clock; `cpu`: median of the processor time of all threads.
        ratio: median over the rounds of (time of the reference row / this row's): above 1 is faster than it.
        cpu_ratio: the same of the processor time, which suffers less where others use the machine.
        peak_mb: largest resident memory of the row's process (the interpreter and libraries included), 10⁶ bytes.
        allocated_mb: the most that tensors made during a call take at once, in 10⁶ bytes; None outside of eager mode.
        parameters, macs: of what ran (macs of our own image classifiers, at batch 1; None for others).
        accuracy: share of a data set's pictures that the model classifies right; None where it was not measured.
    """

    row: Row
    rounds: int
    median: float
    quartile_1: float
    quartile_3: float
    cpu: float
    ratio: float
    cpu_ratio: float
    peak_mb: float
    allocated_mb: float | None
    parameters: int
    macs: int | None
    accuracy: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Of a language model, by the median: tokens that a call generates (its prompt is read in the same time), in
        other modes reads; None for other models."""
        row = self.row
        if row.new_tokens is None:
            return None
        return 1e3 * row.batch * (row.new_tokens if row.mode == "generate" else row.length) / self.median


def measure(
    rows: Sequence[Row], rounds: int, references: Mapping[Row, Row] | None = None, seed: int = 0
) -> list[Result]:
    """Time all `rows` in turns, `rounds` times each; each row's ratio is to `references[row]` (by default the first).

    Raises:
        ValueError: a row cannot run (the message says which and why).
    """
    references = references or dict.fromkeys(rows, rows[0])
    workers: dict[Row, subprocess.Popen] = {}
    try:
        for row in rows:
            workers[row] = _start(row)
        built = tqdm(workers.items(), desc="built", unit="row", leave=False, disable=None)
        ready = {row: _read(row, worker) for row, worker in built}
        times: dict[Row, list[dict]] = {row: [] for row in rows}
        order = random.Random(seed)
        # Shown on a terminal alone.
        with tqdm(desc="timed", unit="run", total=rounds * len(rows), disable=None) as bar:
            for _ in range(rounds):
                for row in order.sample(list(rows), len(rows)):
                    times[row].append(_run_once(row, workers[row]))
                    bar.update()
    finally:
        for worker in workers.values():
            worker.terminate()
            with contextlib.suppress(OSError):  # what it was never able to read
                worker.stdin.close()
            worker.stdout.close()
            worker.wait()
    return [summarize(row, times[row], times[references[row]], ready[row]) for row in rows]


def _start(row: Row) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "hf_effmodels.benchmarking.worker",
        json.dumps({**asdict(row), "overrides": json.loads(row.overrides)}),
    ]
    # The number of threads is fixed before torch is loaded: OpenMP reads it only once.
    environment = {**os.environ, "OMP_NUM_THREADS": str(row.threads)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _run_once(row: Row, worker: subprocess.Popen) -> dict:
    with contextlib.suppress(BrokenPipeError):  # it has ended: reading says so
        worker.stdin.write("\n")
        worker.stdin.flush()
    return _read(row, worker)


def _read(row: Row, worker: subprocess.Popen) -> dict:
    line = worker.stdout.readline()
    if not line:
        raise ValueError(f"{row.name}: its process ended with exit code {worker.wait()}; see standard error.")
    facts = json.loads(line)
    if "error" in facts:
        raise ValueError(f"{row.name}: {facts['error']}")
    return facts


def summarize(row: Row, runs: list[dict], reference: list[dict], ready: dict) -> Result:
    """What the timed `runs` of a row say, beside those of its `reference`, round by round.

    Args:
        row: what was timed.
        runs, reference: of each round "seconds", "cpu_seconds" and "peak_bytes".
        ready: what the row's process said of itself: "parameters" and "allocated_bytes".
    """
    wall = [1e3 * run["seconds"] for run in runs]
    quartiles = statistics.quantiles(wall, n=4, method="inclusive") if len(wall) > 1 else [wall[0]] * 3
    pairs = list(zip(reference, runs, strict=True))
    return Result(
        row=row,
        rounds=len(runs),
        median=statistics.median(wall),
        quartile_1=quartiles[0],
        quartile_3=quartiles[2],
        cpu=statistics.median(1e3 * run["cpu_seconds"] for run in runs),
        ratio=statistics.median(theirs["seconds"] / own["seconds"] for theirs, own in pairs),
        cpu_ratio=statistics.median(theirs["cpu_seconds"] / max(own["cpu_seconds"], 1e-9) for theirs, own in pairs),
        peak_mb=max(run["peak_bytes"] for run in runs) / 1e6,
        allocated_mb=None if ready["allocated_bytes"] is None else ready["allocated_bytes"] / 1e6,
        parameters=ready["parameters"],
        macs=_macs(row) if row.peer == "ours" and task_of(row.preset) == "image-classification" else None,
    )


def _macs(row: Row) -> int:
    if is_place(row.preset):
        return count_place(row.preset, row.folded, row.image_size).macs
    overrides = json.loads(row.overrides)
    return count_preset(row.preset, folded=row.folded, image_size=row.image_size, overrides=overrides).macs
