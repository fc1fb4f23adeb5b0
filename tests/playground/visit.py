"""One visitor of the page: what they do, and what their browser saw."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests import pictures
from tests.gateway.servers import GatewayProcess

SECONDS = 120_000.0
"""Milliseconds to wait for anything: the machine may be busy."""
LONG = {"num_inference_steps": "100", "scheduler": "DPM2 Karras", "samples": "4"}
"""Settings of a run that takes a while."""
expect.set_options(timeout=SECONDS)


@dataclasses.dataclass
class Visit:
    """An open page; ``console`` is all that it said, ``requests`` the URLs that it asked for."""

    page: Page
    gateway: GatewayProcess
    console: list[str] = dataclasses.field(default_factory=list)
    requests: list[str] = dataclasses.field(default_factory=list)
    is_refused: bool = False
    """The gateway was meant to refuse something, of which the browser itself writes a line."""

    def fill(self, **settings: str) -> None:
        """Pick a small product and scene, describe it; a quick run unless ``settings`` say else."""
        self.page.set_input_files("#file-image", file("product.png", pictures.product()))
        self.page.set_input_files("#file-ref_image", file("scene.png", pictures.scene()))
        self.page.fill("#prompt", "a wooden table in a forest")
        quick = {"num_inference_steps": "20", "scheduler": "Euler", "output_format": "png"}
        self.set(**({"seed": "7"} | quick | settings))

    def set(self, **settings: str) -> None:
        """Set controls of the form."""
        self.page.evaluate("document.querySelector('#settings details').open = true")
        for name, value in settings.items():
            control = self.page.locator(f"#field-{name}")
            if control.evaluate("control => control.tagName") == "SELECT":
                control.select_option(value)
            else:
                control.fill(value)

    def run(self) -> None:
        """Press the button and wait for the result."""
        self.page.click("#run")
        expect(self.page.locator("#result")).to_be_visible()

    def picture(self) -> pictures.Pixels:
        """The pixels of the file that Download gives."""
        with self.page.expect_download() as download:
            self.page.click("#download")
        return pictures.decode(Path(download.value.path()).read_bytes())

    def expect_error(self, text: str) -> None:
        """Wait for a sentence in the place for errors."""
        expect(self.page.locator("#error")).to_contain_text(text)
        self.is_refused = True

    def set_key(self, key: str) -> None:
        """Enter a key as a visitor does."""
        if self.page.locator("#key-card").is_hidden():
            self.page.click("#key-open")
        self.page.fill("#key", key)
        self.page.press("#key", "Enter")
        expect(self.page.locator("#key-card")).to_be_hidden()


@contextlib.contextmanager
def visiting(
    browser: Browser,
    gateway: GatewayProcess,
    *,
    key: str | None = None,
    width: int = 1280,
    **context: Any,
) -> Iterator[Visit]:
    """Open the page with ``key``, or with a new one that has credits; none where it is empty.

    At the end the console must have been silent, and all requests have stayed at the gateway.
    """
    opened = browser.new_context(viewport={"width": width, "height": 900}, **context)
    page = opened.new_page()
    page.set_default_timeout(SECONDS)
    visit = Visit(page, gateway)
    page.on("console", lambda message: visit.console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: visit.console.append(f"uncaught: {error}"))
    page.on("request", lambda request: visit.requests.append(request.url))
    page.goto(gateway.url)
    expect(page.locator("#field-samples")).to_be_visible()
    if key != "":
        visit.set_key(key or gateway.make_key())
    yield visit
    opened.close()
    refused = "Failed to load resource:" if visit.is_refused else "\0"
    assert [line for line in visit.console if refused not in line] == []
    own = (gateway.url, "data:", f"blob:{gateway.url}")
    assert [url for url in visit.requests if not url.startswith(own)] == []


def file(name: str, pixels: pictures.Pixels) -> Any:
    """A PNG file as ``set_input_files`` takes it."""
    return {"name": name, "mimeType": "image/png", "buffer": pictures.png(pixels)}


def drop(page: Page, selector: str, name: str, data: bytes, zeros: int = 0) -> None:
    """Drag a file over an element and drop it there; ``zeros`` more bytes make it large."""
    script = """([name, text, zeros]) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes, new Uint8Array(zeros)], name, { type: "image/png" }));
        return transfer;
    }"""
    transfer = page.evaluate_handle(script, [name, base64.b64encode(data).decode(), zeros])
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(selector, event, {"dataTransfer": transfer})


def open_editor(page: Page) -> None:
    """Open the editor of the mask."""
    page.click("#mask-open")
    expect(page.locator("#mask")).to_be_visible()


def stroke(page: Page, mode: str, *points: tuple[float, float]) -> None:
    """Paint from point to point, given in pixels of the 300x200 photo."""
    page.locator(f"[name=brush][value={mode}]").check()
    box = page.locator("#veil").bounding_box()
    assert box is not None
    scale = box["width"] / 300
    for index, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * scale, box["y"] + y * scale, steps=4)
        if index == 0:
            page.mouse.down()
    page.mouse.up()
