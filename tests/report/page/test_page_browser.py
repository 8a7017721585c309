"""The page in a browser: it is headless Chromium, and nothing may be asked of the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autockpt.report.diff import diff_html
from autockpt.report.plan import Plan
from tests.small_plans import planned

_CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
if _CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: it is in the dev extra"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page, and checks in the end that it had no error and asked for nothing."""
    wrong: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(text: str, **settings: Any) -> Any:
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
    assert all(url.endswith("/page.html") or url.startswith("blob:") for url in asked), asked


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture(scope="module")
def html(plan: Plan) -> str:
    return plan.to_html(curve=plan.curve(3, time_limit_s=0.5))


def _ready(page: Any) -> Any:
    page.wait_for_selector("#alive:not([hidden])")
    return page


def test_it_opens_with_what_stands_at_the_peak(opened: Any, html: str, plan: Plan) -> None:
    page = _ready(opened(html))
    told = page.inner_text("#moment")
    assert "75.00 MiB in memory, in the backward of layer.5.mlp (dx_5, my_model.py:11)" in told
    alive = plan.timeline().plan.alive(plan.timeline().plan.peak)
    assert f"{len(alive)} entries" in told
    rows = page.locator("#tensors tbody tr")
    assert rows.count() == min(20, len(alive))
    first = rows.nth(0).inner_text()
    assert "16.00 MiB" in first
    assert alive[0].name in first


def test_pointing_tells_what_runs(opened: Any, html: str) -> None:
    page = _ready(opened(html))
    plot = page.locator('[data-line="plan"] .plot')
    box = plot.bounding_box()
    tip = page.locator('[data-line="plan"] .tip')
    assert tip.is_hidden()
    plot.hover(position={"x": box["width"] * 0.9, "y": 50})
    text = tip.inner_text()
    assert "backward: " in text
    assert ", makes " in text
    assert "layer.0.mlp" in text
    assert ".py:1" in text
    assert "x = self.part_" in text
    assert "optimizer state" in text
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_a_click_lists_what_is_in_memory_then(opened: Any, html: str) -> None:
    page = _ready(opened(html))
    before = page.inner_text("#moment")
    plot = page.locator('[data-line="eager"] .plot')
    plot.scroll_into_view_if_needed()
    plot.click(position={"x": 30, "y": 100})
    told = page.inner_text("#moment")
    assert told != before
    assert told.startswith("Eager PyTorch, after ")
    assert "in the forward" in told
    assert page.locator('[data-line="eager"] .chosen').is_visible()
    assert page.locator('[data-line="plan"] .chosen').is_hidden()
    page.get_by_role("button", name="peak of the plan").click()
    assert page.inner_text("#moment") == before
    page.get_by_role("button", name="previous moment").click()
    assert page.inner_text("#moment") != before
    page.get_by_role("button", name="next moment").click()
    assert page.inner_text("#moment") == before


def test_keys_do_what_the_pointer_does(opened: Any, html: str) -> None:
    page = _ready(opened(html))
    slider = page.get_by_label("A moment of the step: This plan")
    slider.focus()
    before = page.inner_text("#moment")
    page.keyboard.press("ArrowRight")
    after = page.inner_text("#moment")
    assert after != before
    assert slider.get_attribute("aria-valuetext") in after
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#moment") == before
    page.keyboard.press("Home")
    assert "in the forward of embed" in page.inner_text("#moment")
    summary = page.locator(".tree details details > summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert summary.locator("..").get_attribute("open") is None


def test_modules_open_and_close(opened: Any, html: str) -> None:
    page = _ready(opened(html))
    leaf = page.locator(".tree .leaf", has_text="mlp").first
    page.get_by_role("button", name="close all").click()
    assert leaf.is_hidden()
    page.get_by_role("button", name="open all").click()
    assert leaf.is_visible()
    page.locator(".tree > details > summary").click()
    assert leaf.is_hidden()


def test_the_code_and_the_tables_unfold(opened: Any, html: str) -> None:
    page = _ready(opened(html))
    page.locator("#code > summary").click()
    page.wait_for_function("document.querySelector('#code pre').textContent.length > 0")
    assert "def backward():" in page.inner_text("#code pre")
    page.get_by_text("This plan as a table").click()
    assert page.get_by_text("— the peak").last.is_visible()


def test_downloads_are_what_they_say(opened: Any, html: str, plan: Plan, tmp_path: Path) -> None:
    page = _ready(opened(html, accept_downloads=True))

    def saved(button: str) -> str:
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        target = tmp_path / download.value.suggested_filename
        download.value.save_as(target)
        return target.read_text(encoding="utf-8")

    assert Plan.from_json(saved("Download the plan")) == plan
    events = json.loads(saved("Download a trace"))["traceEvents"]
    runs = [event for event in events if event["ph"] == "X" and event["pid"] == 2]
    line = plan.timeline().plan
    assert len(runs) == sum(moment.op is not None for moment in line.moments)
    assert sum(event["tid"] == 3 for event in runs) == plan.num_recomputed_ops
    assert max(event["args"]["bytes in memory"] for event in runs) == plan.predicted_peak_bytes
    most = max(
        sum(event["args"].values()) for event in events if event["ph"] == "C" and event["pid"] == 2
    )
    assert most == plan.predicted_peak_bytes


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(opened: Any, html: str, scheme: str) -> None:
    size = {"width": 360, "height": 700}
    page = _ready(opened(html, viewport=size, color_scheme=scheme))
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    plot = page.locator('[data-line="plan"] .plot')
    plot.scroll_into_view_if_needed()
    plot.click(position={"x": 20, "y": 100})
    assert "in the forward" in page.inner_text("#moment")


def test_two_plans_on_one_page(opened: Any) -> None:
    page = _ready(opened(diff_html(planned(0.4), planned(0.8), ("lean", "roomy"))))
    assert page.inner_text("#moment").startswith("roomy, after")
    page.get_by_role("button", name="peak of lean").click()
    assert page.inner_text("#moment").startswith("lean, after")


def test_names_that_are_markup_stay_text(opened: Any) -> None:
    evil = '<img src=x onerror="document.title = 1">'
    page = _ready(opened(planned(segment=evil, notes=(evil,)).to_html(curve=False)))
    page.get_by_role("button", name="open all").click()
    assert page.locator("img").count() == 0
    assert evil in page.inner_text("#moment")
    assert page.title() != "1"
