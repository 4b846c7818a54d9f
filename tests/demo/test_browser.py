"""The apps in a browser: put something in, press, read what the model says. Nothing is asked of any other machine."""

import re
import shutil
from pathlib import Path

import pytest

import hf_effmodels.demo

from ..hub.test_vision_language import parts  # noqa: F401
from ..training.tasks.image_text_to_text.conftest import bases  # noqa: F401

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hf_effmodels[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CAT = str(Path(hf_effmodels.demo.__file__).parent / "examples" / "cat.jpg")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Without the sandbox, which root has not; it sees the pages of these apps only.
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser, served, tmp_path):
    """Opens a model's app; at the end a picture of the page can be taken, and only this machine was asked."""
    page, asked = browser.new_page(), set()
    page.set_default_timeout(60_000)
    page.on("request", lambda request: asked.add(request.url))

    def open_page(folder):
        page.goto(served(folder))
        return page

    yield open_page
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5_000
    page.close()
    assert {url.split("/")[2].split(":")[0] for url in asked if url.startswith("http")} == {"127.0.0.1"}


def upload(page) -> None:
    page.get_by_test_id("image").first.wait_for(state="attached")
    page.set_input_files("input[type=file]", CAT)
    page.locator("[data-testid=image] img").first.wait_for()


def test_a_photograph_is_classified(show, models):
    page = show(models["image-classification"])
    upload(page)
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("median of 3").wait_for()
    text = page.inner_text("body")
    assert text.count("owl") >= 2 and "as trained" in text and "folded" in text


@pytest.mark.thorough
def test_a_text_goes_on(show, models):
    page = show(models["text-generation"])
    page.get_by_label("Text", exact=True).fill("on the")
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("64 tokens").wait_for()
    assert page.get_by_label("The model goes on").input_value()


@pytest.mark.thorough
def test_an_enlarged_picture_stands_beside_the_bicubic_one(show, models):
    page = show(models["super-resolution"])
    upload(page)
    page.get_by_label("number input for Steps").fill("1")
    page.get_by_label("number input for Longest side").fill("24")
    page.get_by_role("button", name="Enlarge").click()
    page.get_by_text("24 x 16 to 96 x 64 pixels").wait_for()
    sizes = page.eval_on_selector_all("img", "found => found.map(one => one.naturalWidth)")
    assert sizes.count(96) >= 2


@pytest.mark.thorough
def test_a_question_is_answered(show, parts, tmp_path):  # noqa: F811
    for part in parts:
        part.save_pretrained(tmp_path / "model")
    page = show(tmp_path / "model")
    upload(page)
    page.get_by_role("textbox", name="Question").fill("Which colour is it?")
    page.get_by_label("number input for Longest answer in tokens").fill("8")
    page.get_by_role("button", name="Ask").click()
    playwright.expect(page.get_by_role("textbox", name="Answer")).not_to_have_value("", timeout=60_000)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "task, button, names", [("object-detection", "Detect", "cat|dog"), ("image-segmentation", "Segment", "sky|sea")]
)
def test_what_is_found_is_drawn_and_named(show, models, task, button, names):
    page = show(models[task])
    upload(page)
    if task == "object-detection":
        page.get_by_label("number input for Lowest score of a box").fill("0")
    page.get_by_role("button", name=button).click()
    page.get_by_text("4 boxes · " if task == "object-detection" else re.compile(r"\d ms")).first.wait_for()
    assert re.search(rf"\b({names})\b", page.inner_text("body"))


@pytest.mark.thorough
def test_a_click_cuts_out(show, models):
    page = show(models["mask-generation"])
    upload(page)
    page.locator("[data-testid=image] img").first.click(position={"x": 30, "y": 20})
    page.get_by_text("1 point, ").wait_for()
    page.locator("[data-testid=image] img").first.click(position={"x": 60, "y": 50})
    page.get_by_text("2 points, ").wait_for()
