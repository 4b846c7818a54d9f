"""Write the tables that come from the registry into README.md and docs/index.md.

python scripts/update_tables.py           # after a change of the registry
python scripts/update_tables.py --check   # fails if a table is out of date
"""

import importlib
import re
import sys
from pathlib import Path

from hf_effmodels.registry import ARCHITECTURES, PIPELINES

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- systems: .*?-->\n).*?(<!-- end of systems -->)", re.DOTALL)
#: page -> path from it to the pages of the systems
PAGES = {"README.md": "docs/systems/", "docs/index.md": "systems/"}


def systems_table(link: str) -> str:
    """One line per architecture and per diffusers pipeline of the registry."""
    lines = ["| system | paper | presets | params M | MACs M | top-1 % |", "|---|---|---|---|---|---|"]
    for architecture in ARCHITECTURES.values():
        presets = architecture.presets
        # Names of presets have hyphens where some model types have underscores.
        prefix = next(iter(presets))[: len(architecture.model_type) + 1]
        names = [name.removeprefix(prefix) for name in presets]
        title = f"[{architecture.title}]({link}{architecture.name}.md)"
        paper = f"[{architecture.arxiv}](https://arxiv.org/abs/{architecture.arxiv})"
        spans = [_span([p.get(key) for p in presets.values()]) for key in ("parameters", "macs", "top1")]
        shown = ", ".join(names) if len(names) <= 6 else f"{names[0]} … {names[-1]} ({len(names)})"
        lines.append(f"| {title} | {paper} | `{prefix}`{shown} | {' | '.join(spans)} |")
    for name, package in PIPELINES.items():
        pipeline = importlib.import_module(f"{package}.configuration_{name}")
        spans = [_span([p.get(key) for p in pipeline.PRESETS.values()]) for key in ("parameters", "macs", "top1")]
        paper = f"[{pipeline.ARXIV}](https://arxiv.org/abs/{pipeline.ARXIV})"
        shown = ", ".join(f"`{preset}`" for preset in pipeline.PRESETS)
        lines.append(f"| [{pipeline.TITLE}]({link}{name}.md) | {paper} | {shown} | {' | '.join(spans)} |")
    return "\n".join(lines) + "\n"


def _span(values: list) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    low, high = min(known), max(known)
    return f"{low:g}" if low == high else f"{low:g} – {high:g}"


def main() -> int:
    stale = []
    for page, link in PAGES.items():
        path = ROOT / page
        text = path.read_text()
        new = BLOCK.sub(lambda m, link=link: m[1] + systems_table(link) + m[2], text)
        if new != text:
            stale.append(page)
            if "--check" not in sys.argv:
                path.write_text(new)
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run python scripts/update_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
