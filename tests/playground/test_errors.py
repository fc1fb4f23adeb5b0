"""Every failure is told as a sentence that a person understands."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.gateway.servers import GatewayProcess, gateway_process
from tests.playground.conftest import Open
from tests.playground.visit import LONG, Visit, drop, file

pytestmark = pytest.mark.triton


def test_wrong_files_are_refused_before_they_are_sent(visit: Visit) -> None:
    page = visit.page
    drop(page, "#drop-image", "letter.png", b"Dear Sir or Madam")
    allowed = "Choose a PNG, JPEG, GIF or WEBP file."
    visit.expect_error(f"“letter.png” is not a picture that can be used. {allowed}")
    wide = pictures.product(2050, 10)
    page.set_input_files("#file-image", file("wide.png", wide))
    visit.expect_error("“wide.png” is 2050 \u00d7 10 pixels. At most 2048 \u00d7 2048 are allowed")
    damaged = {"name": "cut.png", "mimeType": "image/png", "buffer": pictures.png(wide)[:60]}
    page.set_input_files("#file-image", damaged)  # type: ignore[arg-type]
    visit.expect_error("“cut.png” is damaged")
    drop(page, "#drop-image", "heavy.png", pictures.png(pictures.product()), zeros=33 << 20)
    visit.expect_error("“heavy.png” has 33.0 MB. At most 32 MB are allowed.")
    assert not [url for url in visit.requests if "/v2/" in url]
    page.click("#run")
    visit.expect_error("Choose a photo of the product first.")
    page.set_input_files("#file-image", file("product.png", pictures.product()))
    expect(page.locator("#error")).to_be_hidden()


def test_what_is_missing_is_said_and_focused(open_page: Open) -> None:
    visit = open_page(key="")
    page = visit.page
    page.click("#run")
    visit.expect_error("An API key is needed.")
    expect(page.locator("#key")).to_be_focused()
    visit.set_key(visit.gateway.make_key())
    visit.fill()
    page.fill("#prompt", " ")
    page.click("#run")
    visit.expect_error("Say in the prompt what the surroundings are.")
    expect(page.locator("#prompt")).to_be_focused()
    page.fill("#prompt", "a table")
    visit.set(seed="-2")
    page.click("#run")
    visit.expect_error("Seed must be a whole number from -1 to 999999999999999.")


def test_a_wrong_key(open_page: Open) -> None:
    visit = open_page(key="bd_wrong")
    visit.fill()
    visit.page.click("#run")
    visit.expect_error("This API key does not work here.")
    expect(visit.page.locator("#key")).to_be_visible()
    visit.page.click("#key-forget")
    assert visit.page.evaluate("Object.keys(localStorage)") == []


def test_no_credits(open_page: Open, gateway: GatewayProcess) -> None:
    visit = open_page(key=gateway.make_key("0"))
    visit.fill()
    expect(visit.page.locator("#price")).to_contain_text("Not enough credits: this run reserves")
    visit.page.click("#run")
    visit.expect_error("There are not enough credits for this run")
    expect(visit.page.locator("#error")).to_contain_text("0 are there")


def test_a_failed_run_and_too_many_requests(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory, open_page: Open
) -> None:
    folder = tmp_path_factory.mktemp("impatient")
    with gateway_process(folder, server.http_url, job_timeout=0.05) as impatient:
        visit = open_page(at=impatient, key=impatient.make_key(requests_per_minute=3))
        visit.fill(**LONG)
        visit.page.click("#run")
        visit.expect_error("The run failed:")
        expect(visit.page.locator("#error")).to_contain_text("Nothing is charged.")
        for steps in ("30", "40", "50"):
            visit.set(num_inference_steps=steps)
            visit.page.click("#run")
            expect(visit.page.locator("#run")).to_be_enabled()
        visit.expect_error("Too many requests with this key. Try again in")


def test_a_server_that_goes_away(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory, open_page: Open
) -> None:
    folder = tmp_path_factory.mktemp("away")
    with gateway_process(folder, server.http_url, gateway_id="away") as away:
        visit = open_page(at=away)
        page = visit.page
        visit.fill(**LONG)
        page.click("#run")
        expect(page.locator("#progress-text")).to_contain_text("Painting")
        away.kill()
        expect(page.locator("#progress-text")).to_contain_text("Connection lost. The run goes on")
        away.start()
        expect(page.locator("#result")).to_be_visible()
        page.click("#run")
        expect(page.locator("#progress-text")).to_contain_text("Painting")
        away.kill()
        expect(page.locator("#progress-text")).to_contain_text("Connection lost. The run goes on")
        page.click("#cancel")
        visit.expect_error("so it could not be told to cancel the run. It may still be charged.")
        page.click("#run")
        visit.expect_error("The server does not answer. Check that it is running")
        expect(page.locator("#run")).to_be_enabled()
