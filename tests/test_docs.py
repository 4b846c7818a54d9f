"""What the documentation shows runs as it stands, and says what the registry says."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import hf_effmodels
from hf_effmodels.registry import ARCHITECTURES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"(<!-- needs the Hub -->\n)?```python\n(.*?)```", re.DOTALL)


def snippets(page: Path) -> list[str]:
    return [code for needs_hub, code in SNIPPET.findall(page.read_text()) if not needs_hub]


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_snippets_run_as_they_stand(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((320, 240)).convert("RGB").save("photo.jpg")
    scope = {}
    for code in snippets(page):
        exec(compile(code, str(page), "exec"), scope)


@pytest.mark.parametrize("example", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(example):
    runpy.run_path(str(example), run_name="__main__")


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_tables_are_those_of_the_registry():
    command = [sys.executable, str(ROOT / "scripts" / "update_tables.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_architecture_and_public_name_is_documented():
    for architecture in ARCHITECTURES.values():
        page = ROOT / "docs" / "systems" / f"{architecture.name}.md"
        assert page.exists(), f"{architecture.title} has no page"
        for preset in architecture.presets:
            assert f"`{preset}`" in page.read_text(), f"{page.name} does not name {preset}"
    text = "".join(page.read_text() for page in PAGES)
    missing = [name for name in hf_effmodels.__all__ if not name.startswith("_") and name not in text]
    assert not missing
