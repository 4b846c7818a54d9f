"""Write what the docs say from the entries: the tables of systems, the navigation and the API pages.

python scripts/update_tables.py           # after a change of the entries
python scripts/update_tables.py --check   # fails if something is out of date
"""

import re
import sys
from pathlib import Path

from hf_effmodels.architecture import METRICS, Architecture, Entry, Preset
from hf_effmodels.registry import all_entries

ROOT = Path(__file__).parent.parent
#: page -> path from it to the pages of the systems
TABLES = {"README.md": "docs/systems/", "docs/index.md": "systems/"}
#: The API pages, one for each folder that has entries.
API = "docs/api"


def generated() -> dict[str, str]:
    """Every file that is written here, by its path in the repository, with its content as it should be."""
    files = {page: _with_block(_read(page), "systems", systems_table(link)) for page, link in TABLES.items()}
    files["mkdocs.yml"] = _with_block(_with_block(_read("mkdocs.yml"), "systems", _systems()), "classes", _classes())
    return files | {f"{API}/{name}.md": api_page(name) for name in _folders()}


def left_over() -> list[str]:
    """API pages of systems that are gone."""
    return [str(p.relative_to(ROOT)) for p in sorted((ROOT / API).glob("*.md")) if p.stem not in _folders()]


def _read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _with_block(text: str, name: str, content: str) -> str:
    """`text` with what stands between the lines that say `name: …` and `end of name` replaced."""
    block = re.compile(rf"(^ *(?:<!--|#) {name}: [^\n]*\n).*?(^ *(?:<!--|#) end of {name})", re.DOTALL | re.MULTILINE)
    new, count = block.subn(lambda match: match[1] + content + match[2], text)
    if count != 1:
        raise ValueError(f"found {count} blocks {name!r}, expected one.")
    return new


def _folders() -> dict[str, list[Entry]]:
    """Folder -> its entries."""
    folders: dict[str, list[Entry]] = {}
    for entry in all_entries():
        folders.setdefault(entry.name, []).append(entry)
    return folders


def systems_table(link: str) -> str:
    """One line per entry."""
    lines = ["| system | paper | presets | params M | MACs M | published |", "|---|---|---|---|---|---|"]
    for entry in all_entries():
        presets = entry.presets
        title = f"[{entry.title}]({link}{entry.name}.md)"
        paper = f"[{entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})"
        spans = [_span([getattr(p, key) for p in presets.values()]) for key in ("parameters", "macs")]
        spans.append(_published(entry, list(presets.values())))
        lines.append(f"| {title} | {paper} | {_names(entry.key, list(presets))} | {' | '.join(spans)} |")
    return "\n".join(lines) + "\n"


def _names(key: str, names: list[str]) -> str:
    # Names of presets have hyphens where some model types have underscores.
    prefix = names[0][: len(key) + 1]
    if any(not name.startswith(prefix) for name in names):
        return ", ".join(f"`{name}`" for name in names)
    short = [name.removeprefix(prefix) for name in names]
    return f"`{prefix}`" + (", ".join(short) if len(short) <= 6 else f"{short[0]} … {short[-1]} ({len(short)})")


def _published(entry: Entry, presets: list[Preset]) -> str:
    """The customary metric of the entry's main task, over its presets."""
    for metric in entry.tasks[0].metrics:
        if found := [number for preset in presets if (number := preset.find(metric)) is not None]:
            dataset = found[0].dataset
            unit = METRICS[metric] and f" {METRICS[metric]}"
            where = "" if dataset == "ImageNet-1k" else f" ({dataset})"
            return f"{metric} {_span([number.value for number in found if number.dataset == dataset])}{unit}{where}"
    return "–"


def _span(values: list) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    low, high = min(known), max(known)
    return f"{low:g}" if low == high else f"{low:g} – {high:g}"


def _title(page: str) -> str:
    return _read(page).partition("\n")[0].removeprefix("# ")


def _systems() -> str:
    """Navigation: the pages of the entries, then what else there is a page for."""
    others = sorted(p.stem for p in (ROOT / "docs/systems").glob("*.md") if p.stem not in _folders())
    names = [*_folders(), *others]
    return "".join(f"      - {_title(f'docs/systems/{name}.md')}: systems/{name}.md\n" for name in names)


def _classes() -> str:
    return "".join(f"      - {_title(f'docs/systems/{name}.md')}: api/{name}.md\n" for name in _folders())


def api_page(name: str) -> str:
    """Every public class of a folder, by module."""
    members: dict[str, dict[str, None]] = {}
    for entry in _folders()[name]:
        for module, classes in _public_classes(entry).items():
            members.setdefault(f"{entry.package}.{module}", {}).update(dict.fromkeys(classes))
    parts = [f"# {_title(f'docs/systems/{name}.md')}", f"[What it is and how to use it](../systems/{name}.md)"]
    parts += [f"::: {module}\n    options:\n      members: [{', '.join(names)}]" for module, names in members.items()]
    return "\n\n".join(parts) + "\n"


def _public_classes(entry: Entry) -> dict[str, tuple[str, ...]]:
    if not isinstance(entry, Architecture):
        return {**entry.classes, "create": ("create_pipeline",)}
    classes = {
        f"configuration_{entry.name}": (entry.config,),
        f"modeling_{entry.name}": tuple(dict.fromkeys(entry.auto_classes.values())),
    }
    if entry.own_image_processor:
        classes[f"image_processing_{entry.name}"] = tuple(entry.image_processor.values())
    return classes | ({f"processing_{entry.name}": (entry.processor,)} if entry.processor else {})


def main() -> int:
    stale = [name for name, text in generated().items() if not (ROOT / name).is_file() or _read(name) != text]
    stale += left_over()
    if "--check" in sys.argv:
        if stale:
            print(f"out of date: {', '.join(stale)}; run python scripts/update_tables.py")
        return bool(stale)
    for name in left_over():
        (ROOT / name).unlink()
    for name, text in generated().items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
