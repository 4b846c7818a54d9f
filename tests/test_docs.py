"""What the documentation shows runs as it stands, and says what the entries say."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image

import hf_effmodels
from hf_effmodels import cli
from hf_effmodels.registry import PIPELINES, all_entries, public_class_names
from hf_effmodels.training import load_task
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.recipes import find_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"(<!-- needs (?:the Hub|gradio) -->\n)?```python\n(.*?)```", re.DOTALL)


def snippets(page: Path) -> list[str]:
    return [code for needs_hub, code in SNIPPET.findall(page.read_text()) if not needs_hub]


@pytest.mark.parametrize(
    "page",
    [
        # an encoder of 1024 pixels
        pytest.param(p, marks=[pytest.mark.thorough] * (p.name == "tinysam.md"), id=p.relative_to(ROOT).as_posix())
        for p in PAGES
        if p.parent.name != "tutorials" and snippets(p)
    ],
)
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


@pytest.fixture(scope="module")
def update_tables():
    return runpy.run_path(str(ROOT / "scripts" / "update_tables.py"))


def test_tables_navigation_and_api_pages_are_those_of_the_entries(update_tables):
    for name, text in update_tables["generated"]().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run python scripts/update_tables.py"
    assert not update_tables["left_over"]()


@pytest.fixture(scope="module")
def update_options():
    return runpy.run_path(str(ROOT / "scripts" / "update_options.py"))


def test_the_pages_of_options_say_what_is_read(update_options):
    assert not update_options["stale"](), "run python scripts/update_options.py"


@pytest.mark.parametrize("script", ["update_options", "update_tables"])
def test_a_page_that_is_old_lacking_or_of_what_is_gone_is_told_and_brought_up_to_date(
    script, request, tmp_path, monkeypatch, capsys
):
    """With a page that is as it should be, an old one, one that is not there yet, and one of nothing."""
    ours = request.getfixturevalue(script)["main"].__globals__
    folder, wanted = ours["FOLDER" if script == "update_options" else "API"], {"mkdocs.yml": "nav"}
    wanted |= {f"{folder}/{name}.md": name for name in ("good", "old", "new")}
    for name, text in {**wanted, f"{folder}/old.md": "older", f"{folder}/gone.md": "gone"}.items():
        if not name.endswith("new.md"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    monkeypatch.setitem(ours, "ROOT", tmp_path)
    monkeypatch.setitem(ours, "pages" if script == "update_options" else "generated", lambda: wanted)
    if script == "update_tables":
        monkeypatch.setitem(ours, "_folders", lambda: ["good", "old", "new"])
    monkeypatch.setattr("sys.argv", [script, "--check"])
    assert ours["main"]() == 1
    told = capsys.readouterr().out
    assert [f"{folder}/{name}.md" in told for name in ("good", "old", "new", "gone")] == [False, True, True, True]
    monkeypatch.setattr("sys.argv", [script])
    assert ours["main"]() == 0
    found = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    assert found == wanted
    monkeypatch.setattr("sys.argv", [script, "--check"])
    assert ours["main"]() == 0


def test_what_is_written_into_a_page_has_its_one_place(update_tables):
    with_block, page = update_tables["_with_block"], "a\n<!-- systems: x -->\nold\n<!-- end of systems -->\nb\n"
    new = "a\n<!-- systems: x -->\nnew\n<!-- end of systems -->\nb\n"
    assert with_block(page, "systems", "new\n") == new
    for count, text in ((0, "a\nb\n"), (2, page + page)):
        with pytest.raises(ValueError, match=f"found {count} blocks 'systems', expected one"):
            with_block(text, "systems", "new\n")


def test_every_option_says_what_it_is(update_options):
    rows = [
        line for text in update_options["pages"]().values() for line in text.splitlines() if line.startswith("| `")
    ]
    assert len(rows) > 1000 and not [row for row in rows if row.endswith("|  |")]


def test_every_public_class_has_its_place_on_an_api_page():
    pages = {p.stem: set(re.findall(r"\w+", p.read_text())) for p in (ROOT / "docs" / "api").glob("*.md")}
    assert set(public_class_names()) <= set().union(*pages.values())
    for name, entry in PIPELINES.items():
        assert {c for classes in entry.classes.values() for c in classes} <= pages[name]
    # Five architectures had none.
    assert {"TinyNetModel", "TinyNetConfig"} <= pages["tinynet"]
    assert {"PyramidVigBackbone", "VigBackbone"} <= pages["vig"]


def test_the_navigation_leads_to_every_page_once():
    def leaves(node):
        return [
            leaf
            for child in node.values()
            for leaf in ([child] if isinstance(child, str) else sum(map(leaves, child), []))
        ]

    class Settings(yaml.SafeLoader):
        """Of mkdocs: its tags, such as that of environment variables, stand for nothing here."""

    Settings.add_multi_constructor("!", lambda loader, suffix, node: None)
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)["nav"]
    pages = [page for part in navigation for page in leaves(part)]
    assert sorted(pages) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md"))


def test_every_system_and_public_name_is_documented():
    for entry in all_entries():
        page = ROOT / "docs" / "systems" / f"{entry.name}.md"
        assert page.exists(), f"{entry.title} has no page"
        for preset in entry.presets:
            assert f"`{preset}`" in page.read_text(), f"{page.name} does not name {preset}"
    text = "".join(page.read_text() for page in PAGES)
    missing = [name for name in hf_effmodels.__all__ if not name.startswith("_") and name not in text]
    assert not missing


def commands(page: str) -> list[list[str]]:
    """The commands in the shell blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("words", commands("compression.md"), ids=" ".join)
def test_a_command_of_the_survey_is_there_with_its_options(words, capsys):
    program, *command = words
    assert program == "hf-effmodels"
    if command[0] == "train":
        reader = ArgumentReader(command[1:])
        reader.read(*load_task(reader.task).TRAINING_ARGUMENTS)
        return
    for flag in ("--help-all", "--help"):
        try:
            answer = cli.main([*command, flag])
        except SystemExit as ended:
            answer = ended.code
        if answer in (0, None):
            break
    assert answer in (0, None)
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    given = {word for word in command if word.startswith("--")}
    if "--config" in given:
        assert find_recipe(command[command.index("--config") + 1])
    assert given <= known | {"--config"}
