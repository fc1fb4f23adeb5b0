"""The mask: the gateway's matte, painted on by pointer and by keyboard, sent and honoured."""

from __future__ import annotations

import base64
import json

import pytest
from playwright.sync_api import expect

from tests import pictures
from tests.playground.visit import Visit, open_editor, stroke

pytestmark = pytest.mark.triton


def run_and_read_mask(visit: Visit) -> pictures.Pixels | None:
    """Run; the mask that was sent."""
    with visit.page.expect_request(
        lambda request: (
            request.url.endswith("/v2/bg-replace")
            and "dry_run" not in json.loads(request.post_data or "")
        )
    ) as sent:
        visit.run()
    text = json.loads(sent.value.post_data or "").get("mask_image")
    return None if text is None else pictures.decode(base64.b64decode(text))


def test_painting_changes_the_mask_that_is_sent_and_the_picture(visit: Visit) -> None:
    page, product = visit.page, pictures.product()
    visit.fill()
    open_editor(page)
    stroke(page, "repaint", (140, 100), (160, 100))
    stroke(page, "keep", (10, 190), (30, 190))
    stroke(page, "keep", (280, 10), (290, 10))
    page.click("#mask-undo")
    page.click("#mask-use")
    expect(page.locator("#mask-state")).to_have_text("Your own mask is used")
    mask = run_and_read_mask(visit)
    assert mask is not None
    assert mask.shape[:2] == (200, 300)
    assert (mask[95:105, 140:160] == 255).all()
    assert (mask[186:194, 12:28] == 0).all()
    assert (mask[5:15, 280:290] == 255).all()  # undone
    assert (mask[100, 80:120] == 0).all()  # the matte's own
    picture = visit.picture()
    assert (picture[188:192, 14:26] == product[188:192, 14:26]).all()
    assert (picture[98:102, 142:158] != product[98:102, 142:158]).any(axis=2).mean() > 0.9


def test_reset_and_another_photo_drop_the_mask(visit: Visit) -> None:
    page = visit.page
    visit.fill()
    open_editor(page)
    stroke(page, "repaint", (140, 100), (160, 100))
    page.click("#mask-use")
    expect(page.locator("#mask-state")).to_have_text("Your own mask is used")
    open_editor(page)
    page.click("#mask-reset")
    page.click("#mask-use")
    expect(page.locator("#mask-state")).to_be_empty()
    open_editor(page)
    stroke(page, "keep", (10, 190), (30, 190))
    page.click("#mask-close")
    expect(page.locator("#mask-state")).to_be_empty()
    assert run_and_read_mask(visit) is None


def test_the_keyboard_paints_too(visit: Visit) -> None:
    page = visit.page
    visit.fill()
    open_editor(page)
    expect(page.locator("#veil")).to_be_focused()
    page.locator("[name=brush][value=repaint]").check()
    page.focus("#veil")
    page.keyboard.press("]")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    page.focus("#mask-use")
    page.keyboard.press("Enter")
    expect(page.locator("#mask-state")).to_have_text("Your own mask is used")
    mask = run_and_read_mask(visit)
    assert mask is not None
    assert (mask[98:102, 150:175] == 255).all()
    assert (mask[98:102, 80:120] == 0).all()
