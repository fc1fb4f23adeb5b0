"""The page's code, copied and run as it is, makes the page's pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests import pictures
from tests.playground.conftest import Open
from tests.playground.visit import Visit, file, open_editor, stroke

pytestmark = pytest.mark.triton
PROMPT = "a \"wooden\" table, $HOME `ls` \\n 'here' 木の机\nin a forest"
PRODUCT = "my product's $1.png"


def node() -> str:
    found = shutil.which("node")
    assert found, "node is missing: apt-get install nodejs"
    return found


def run_code(visit: Visit, language: str, folder: Path) -> None:
    """Copy the page's code, and run it as its reader would."""
    page = visit.page
    page.locator(f"[name=language][value={language}]").check()
    page.click("#copy")
    expect(page.locator("#live")).to_have_text(f"The {language} code is copied.")
    code = page.evaluate("navigator.clipboard.readText()")
    suffix = {"curl": "sh", "python": "py", "javascript": "mjs"}[language]
    path = folder / f"code.{suffix}"
    path.write_text(code)
    shell = ["bash", "-euo", "pipefail"]
    command = {"curl": shell, "python": [sys.executable], "javascript": [node()]}[language]
    key = page.evaluate("localStorage['backdrop.key']")
    done = subprocess.run(
        [*command, path.name],
        cwd=folder,
        env=os.environ | {"BACKDROP_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path.unlink()


@pytest.mark.parametrize(("samples", "inline"), [(1, True), (2, False)], ids=["inline", "files"])
def test_the_code_makes_the_same_pictures(
    open_page: Open, tmp_path: Path, samples: int, inline: bool
) -> None:
    visit = open_page(permissions=["clipboard-read", "clipboard-write"])
    page = visit.page
    visit.fill(samples=str(samples), cn_weight="0.8")
    page.set_input_files("#file-image", file(PRODUCT, pictures.product()))
    page.fill("#prompt", PROMPT)
    page.fill("#negative_prompt", "blur")
    if not inline:  # the mask is no file of the visitor's: it is in the code
        open_editor(page)
        stroke(page, "repaint", (140, 100), (160, 100))
        page.click("#mask-use")
        expect(page.locator("#mask-state")).to_have_text("Your own mask is used")
    page.locator("#inline").set_checked(inline)
    visit.run()
    expected = [visit.picture()]
    if samples > 1:
        page.locator("#samples button").nth(1).click()
        expected.append(visit.picture())
    for language in ("curl", "python", "javascript"):
        folder = tmp_path / language
        folder.mkdir()
        if not inline:
            (folder / PRODUCT).write_bytes(pictures.png(pictures.product()))
            (folder / "scene.png").write_bytes(pictures.png(pictures.scene()))
        run_code(visit, language, folder)
        made = sorted(folder.glob("picture-*.png"))
        assert len(made) == samples
        for path, picture in zip(made, expected, strict=True):
            assert np.array_equal(pictures.decode(path.read_bytes()), picture), language


def test_long_pictures_are_shown_shortened(visit: Visit) -> None:
    visit.page.click("#try")
    expect(visit.page.locator("#code")).to_contain_text("KB)")
    assert len(visit.page.locator("#code").inner_text()) < 3000
