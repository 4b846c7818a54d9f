"""A benchmark's results as a Markdown table, CSV, JSON and a picture."""

import contextlib
import csv
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from .._files import whole_file, write_text
from .runs import Result

#: Colours of the bars.
OURS, PEERS = "#4c72b0", "#b0b0b0"
COLUMNS = (
    "preset",
    "implementation",
    "backend",
    "batch",
    "threads",
    "mode",
    "median ms",
    "IQR ms",
    "CPU ms",
    "times faster",
    "by CPU time",
    "peak MB",
    "call MB",
    "params M",
    "MACs M",
    "tokens/s",
    "top-1 %",
)
#: Those that are left out where no row has them.
OF_SOME = ("tokens/s", "top-1 %")


def cells(result: Result) -> tuple[str, ...]:
    """One line of the table."""
    row = result.row
    return (
        row.preset,
        row.peer,
        row.backend,
        str(row.batch),
        str(row.threads),
        row.mode,
        f"{result.median:.2f}",
        f"{result.quartile_1:.2f}–{result.quartile_3:.2f}",
        f"{result.cpu:.2f}",
        f"{result.ratio:.2f}",
        f"{result.cpu_ratio:.2f}",
        f"{result.peak_mb:.0f}",
        "" if result.allocated_mb is None else f"{result.allocated_mb:.1f}",
        f"{result.parameters / 1e6:.3f}",
        "" if result.macs is None else f"{result.macs / 1e6:.1f}",
        "" if result.tokens_per_second is None else f"{result.tokens_per_second:.1f}",
        "" if result.accuracy is None else f"{100 * result.accuracy:.2f}",
    )


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The columns' names and the lines; of `OF_SOME` those that some row has."""
    names, *lines = COLUMNS, *map(cells, results)
    kept = [n for n, name in enumerate(names) if name not in OF_SOME or any(line[n] for line in lines)]
    return [tuple(line[n] for n in kept) for line in (names, *lines)]


def markdown(results: Sequence[Result]) -> str:
    names, *lines = table(results)
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *lines))


def machine() -> dict:
    """Where and with what was measured."""
    import torch

    versions = {}
    for package in ("torch", "transformers", "timm", "onnxruntime", "openvino"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make the folder before anything is measured.

    Raises:
        ValueError: it is a file, or holds an earlier benchmark's files and `overwrite` is not given.
        OSError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {folder} is a file, accepted is a folder.")
    held = [path.name for path in _paths(folder) if path.exists()]
    if held and not overwrite:
        raise ValueError(f"--output: {folder} holds {', '.join(held)}; --overwrite replaces them.")
    folder.mkdir(parents=True, exist_ok=True)


def _paths(folder: Path) -> list[Path]:
    return [folder / f"benchmark.{suffix}" for suffix in ("md", "csv", "json", "png")]


def write(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write benchmark.md, .csv, .json and, where matplotlib is installed, .png into `folder`; returns their paths."""
    *texts, picture = _paths(folder)
    contents = {"machine": machine(), "results": [asdict(result) for result in results]}
    as_csv = io.StringIO()
    csv.writer(as_csv).writerows(table(results))
    write_text(texts[0], markdown(results) + "\n")
    write_text(texts[1], as_csv.getvalue())
    write_text(texts[2], json.dumps(contents, indent=2, ensure_ascii=False) + "\n")
    try:
        import matplotlib
    except ImportError:
        picture.unlink(missing_ok=True)  # an earlier benchmark's, which the tables beside it are not of
        return texts
    matplotlib.use("Agg")
    with whole_file(picture) as part:
        draw(results, part)
    return [*texts, picture]


def draw(results: Sequence[Result], path: Path) -> None:
    """Bars of the medians with their quartiles, a panel for each batch size, number of threads and mode."""
    from matplotlib import pyplot

    groups = list(dict.fromkeys((r.row.batch, r.row.threads, r.row.mode) for r in results))
    height = 1 + 0.35 * max(
        sum((r.row.batch, r.row.threads, r.row.mode) == group for r in results) for group in groups
    )
    figure, axes = pyplot.subplots(
        len(groups), 1, figsize=(8, height * len(groups)), squeeze=False, layout="constrained"
    )
    for axis, group in zip(axes[:, 0], groups, strict=True):
        chosen = [r for r in results if (r.row.batch, r.row.threads, r.row.mode) == group]
        medians = [result.median for result in chosen]
        spread = [
            [r.median - r.quartile_1 for r in chosen],
            [r.quartile_3 - r.median for r in chosen],
        ]
        bars = axis.barh(
            [r.row.name for r in chosen],
            medians,
            xerr=spread,
            color=[OURS if r.row.peer == "ours" else PEERS for r in chosen],
        )
        axis.bar_label(bars, [f" {r.ratio:.2f}×" for r in chosen])
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlabel("milliseconds (median, quartiles)")
        axis.set_title(f"batch {group[0]}, {group[1]} thread{'s' if group[1] > 1 else ''}, {group[2]}")
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)
