"""For everyone: keyboard alone, small screens, dark mode, less motion, screen readers."""

from __future__ import annotations

from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from tests.playground.conftest import Open
from tests.playground.visit import Visit

pytestmark = pytest.mark.triton
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is there."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab never comes to {selector}")


def test_a_whole_run_by_keyboard_alone(open_page: Open) -> None:
    visit = open_page(key="")
    page = visit.page
    tab_to(page, "#key")
    page.keyboard.type(visit.gateway.make_key())
    page.keyboard.press("Enter")
    expect(page.locator("#key-card")).to_be_hidden()
    for well in ("image", "ref_image"):
        tab_to(page, f"#file-{well}")
        tab_to(page, f"#drop-{well} .examples button")
        page.keyboard.press("Enter")
        expect(page.locator(f"#drop-{well}.filled")).to_be_visible()
    tab_to(page, "#prompt")
    page.keyboard.type("a bottle of soap on a beach")
    tab_to(page, "#field-samples")
    page.keyboard.press("ArrowRight")
    tab_to(page, "summary")
    page.keyboard.press("Enter")
    tab_to(page, "#field-num_inference_steps")
    page.keyboard.press("Home")
    tab_to(page, "#field-scheduler")
    page.keyboard.type("Euler")
    tab_to(page, "#run")
    page.keyboard.press("Enter")
    expect(page.locator("#samples li")).to_have_count(2)
    tab_to(page, "#cut")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#cut")).to_have_attribute("aria-valuetext", "49 % before, 51 % after")
    tab_to(page, "#samples li:last-child button")
    page.keyboard.press("Space")
    expect(page.locator("#samples li:last-child button")).to_have_attribute("aria-pressed", "true")
    tab_to(page, "#download")


def serious_issues(page: Page) -> list[str]:
    """What axe-core calls serious or critical; it gets in past the page's own policy."""
    page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{issue['id']}: {node['html'][:200]}"
        for issue in found
        if issue["impact"] in ("serious", "critical")
        for node in issue["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page: Open, scheme: str) -> None:
    visit = open_page(key="", color_scheme=scheme, reduced_motion="reduce")
    page = visit.page
    page.click("#run")
    visit.expect_error("An API key is needed.")
    assert serious_issues(page) == []
    visit.set_key(visit.gateway.make_key())
    visit.fill(samples="2")
    visit.run()
    assert serious_issues(page) == []
    page.click("#mask-open")
    expect(page.locator("#mask")).to_be_visible()
    assert serious_issues(page) == []
    colours = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert (min(page.evaluate(colours)) > 200) == (scheme == "light")
    assert page.evaluate(
        "getComputedStyle(document.querySelector('.first')).transitionDuration"
    ) in (
        "0s",
        "",
    )


def test_a_narrow_screen_never_scrolls_sideways(open_page: Open) -> None:
    visit = open_page(width=390)
    page = visit.page
    visit.fill(samples="2")
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 390
    visit.run()
    assert page.evaluate(width) == 390
    expect(page.locator("#compare")).to_be_in_viewport()
    page.click("#mask-open")
    expect(page.locator("#mask")).to_be_visible()
    assert page.evaluate("document.querySelector('#mask').scrollWidth") <= 390
    for button in ("#mask-use", "#mask-close", "#veil"):
        box = page.locator(button).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


def test_the_key_is_kept_here_and_can_be_forgotten(visit: Visit) -> None:
    page = visit.page
    page.reload()
    expect(page.locator("#key-card")).to_be_hidden()
    page.click("#key-open")
    expect(page.locator("#key")).to_have_value("")
    expect(page.locator("#key")).to_have_attribute("type", "password")
    page.click("#key-forget")
    expect(page.locator("#price")).to_have_text("Enter an API key to see the price.")
    assert page.evaluate("Object.keys(localStorage)") == []
