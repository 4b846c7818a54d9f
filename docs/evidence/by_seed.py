"""Results of several seeds, which may come from several runs into one folder: `results.json`, and `table.txt` beside
it with the mean, the standard deviation and each value."""

import json
import statistics
from pathlib import Path

from filelock import FileLock


def add(output: Path, name: str, seed: int, share: float) -> None:
    """Write a share down, in per cent. Runs of other seeds may do so at the same time."""
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / "results.lock"):
        _add(output, name, seed, share)


def _add(output: Path, name: str, seed: int, share: float) -> None:
    file = output / "results.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found.setdefault(name, {})[str(seed)] = round(100 * share, 2)
    file.write_text(json.dumps(found, indent=1) + "\n")
    lines = []
    for each, of_seed in found.items():
        values = [of_seed[seed] for seed in sorted(of_seed, key=int)]
        lines.append(f"{each}: {statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f} {values}")
    (output / "table.txt").write_text("\n".join(lines) + "\n")
