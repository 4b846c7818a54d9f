"""The report of a quantisation as a table and as a picture."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

#: What is written beside the model.
REPORT, PICTURE = "quantization_report.json", "quantization_report.png"


def as_table(report: dict) -> str:
    """What was measured, a line each; then how far each block and its layers are off. Weights that were left are named
    when the work begins, and in the report itself."""
    shown = ("method", "bits", "group_size", "activation_bits", "bits_per_weight", "bytes_before", "bytes")
    shown += ("perplexity_before", "perplexity_after", "seconds", "peak_memory", "folder")
    lines = [f"{name.ljust(18)}{report[name]}" for name in shown if report.get(name) not in (None, [])]
    lines += ["", "block  output  layers (errors as shares)"]
    for row in report["blocks"]:
        output = f"{row['output']:.4f}" if "output" in row else ""
        worst = sorted(row["layers"].items(), key=lambda item: -item[1])[:3]
        lines.append(f"{row['block']:5}  {output:6}  " + ", ".join(f"{name} {error:.3f}" for name, error in worst))
    return "\n".join(lines)


def picture(report: dict, file: str | Path) -> bool:
    """Draw the error of each block's output and of each layer's weight; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("%s is not drawn: matplotlib is not installed (pip install matplotlib).", file)
        return False
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    rows = report["blocks"]
    numbers = [row["block"] for row in rows]
    for name in sorted({name for row in rows for name in row["layers"]}):
        points = [(row["block"], row["layers"][name]) for row in rows if name in row["layers"]]
        axes.plot(*zip(*points, strict=True), linewidth=0.8, marker=".", label=name)
    if all("output" in row for row in rows):
        axes.plot(numbers, [row["output"] for row in rows], color="black", linewidth=2, label="output of the block")
    axes.set(xlabel="block", ylabel="relative error", ylim=(0, None))
    axes.set_title(_title(report))
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(file, dpi=120)
    return True


def _title(report: dict) -> str:
    group = f" g{report['group_size']}" if report["group_size"] else ""
    title = f"{report['method']} W{report['bits']}A{report['activation_bits'] or 16}{group}"
    if report["perplexity_after"] is not None:
        title += f": perplexity {report['perplexity_before']:.2f} → {report['perplexity_after']:.2f}"
    return title
