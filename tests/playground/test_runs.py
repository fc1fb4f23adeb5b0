"""From pictures to a picture: examples, drag and drop, progress, cancel, samples, history."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect

from tests import pictures
from tests.playground.visit import LONG, Visit, drop

pytestmark = pytest.mark.triton


def test_examples_to_a_picture_with_progress(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Use the example: a bottle on grey").click()
    page.get_by_role("button", name="Use the example: a wooden deck at sunset").click()
    expect(page.locator("#drop-ref_image .file")).to_contain_text("reference.jpg · 1024 \u00d7 768")
    page.fill("#prompt", "a bottle of soap on a beach at sunset")
    visit.set(num_inference_steps="60", output_format="png")
    expect(page.locator("#price")).to_contain_text("credits")
    page.click("#run")
    expect(page.locator("#progress-text")).to_contain_text("Painting: step")
    expect(page.locator("#preview")).to_be_visible()
    assert 0 < float(page.locator("#bar").evaluate("bar => bar.value")) <= 1
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#live")).to_have_text("Done: the picture is there.")
    assert visit.picture().shape == (1024, 1024, 3)


def test_dropped_and_pasted_pictures(visit: Visit) -> None:
    page = visit.page
    drop(page, "#drop-image", "dropped.png", pictures.png(pictures.product()))
    expect(page.locator("#drop-image .file")).to_have_text("dropped.png · 300 \u00d7 200")
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(90, 60);
            canvas.getContext("2d").fillRect(0, 0, 9, 9);
            const blob = await canvas.convertToBlob();
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([blob], "pasted.png", { type: "image/png" }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }"""
    )
    expect(page.locator("#drop-ref_image .file")).to_have_text("pasted.png · 90 \u00d7 60")
    drop(page, "body", "beside.png", pictures.png(pictures.product()))
    assert page.url == visit.gateway.url + "/"
    page.fill("#prompt", "a table")
    visit.set(num_inference_steps="20", scheduler="Euler", output_format="png")
    visit.run()
    core = pictures.product_mask() == 0
    core[:, :110] = core[:, 190:] = False
    same = (visit.picture() == pictures.product()).all(axis=2)
    assert same[core].mean() > 0.99
    assert same[~core].mean() < 0.9


def test_cancel(visit: Visit) -> None:
    visit.fill(**LONG)
    visit.page.click("#run")
    expect(visit.page.locator("#progress-text")).to_contain_text("Painting")
    visit.page.click("#cancel")
    visit.expect_error("The run was cancelled. Only the steps that were done are charged.")
    expect(visit.page.locator("#run")).to_be_enabled()
    expect(visit.page.locator("#progress")).to_be_hidden()


def test_a_reload_follows_the_run_on(visit: Visit) -> None:
    visit.fill(num_inference_steps="100", samples="2")
    visit.page.click("#run")
    expect(visit.page.locator("#progress-text")).to_contain_text("Painting")
    visit.page.reload()
    expect(visit.page.locator("#samples")).to_contain_text("Seed 8")
    expect(visit.page.locator("#history li")).to_have_count(1)


def test_samples_stand_side_by_side_and_stay_in_the_history(visit: Visit) -> None:
    page = visit.page
    visit.fill(samples="2")
    visit.run()
    samples = page.locator("#samples button")
    assert samples.all_inner_texts() == ["Seed 7", "Seed 8"]
    first = visit.picture()
    samples.nth(1).click()
    expect(samples.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#facts")).to_contain_text("Seed 8")
    assert (visit.picture() != first).any()
    page.reload()
    page.fill("#prompt", "another")
    page.locator("#history .open").click()
    expect(page.locator("#prompt")).to_have_value("a wooden table in a forest")
    expect(page.locator("#field-seed")).to_have_value("7")
    assert np.array_equal(visit.picture(), first)
    page.click("#history-clear")
    expect(page.locator("#history li")).to_have_count(0)
    page.reload()
    expect(page.locator("#history-empty")).to_be_visible()


def test_the_price_follows_the_settings(visit: Visit) -> None:
    page = visit.page
    visit.fill()
    price = page.locator("#price")
    expect(price).to_contain_text("About")
    cheap = price.inner_text()
    visit.set(samples="4", num_inference_steps="100")
    expect(price).not_to_have_text(cheap)
    amounts = [float(text.split()[1]) for text in (cheap, price.inner_text())]
    assert amounts[1] > 10 * amounts[0] > 0
    expect(page.locator("#balance")).to_have_text("1,000 credits left")
