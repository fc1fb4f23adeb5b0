"""The README's requests, run as they stand there but for the ports."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from backdrop_server.triton.launcher import TritonServer

pytestmark = pytest.mark.triton

ROOT = Path(__file__).parents[2]


def block(language: str, word: str) -> str:
    """The README's code block in ``language`` that holds ``word``."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    found: list[str] = [text for text in blocks if word in text]
    assert len(found) == 1
    return found[0]


def test_the_curl_request(server: TritonServer, tmp_path: Path) -> None:
    assert shutil.which("curl"), "curl is needed to run the README's request"
    (tmp_path / "client").symlink_to(ROOT / "client")
    script = block("bash", "curl").replace("127.0.0.1:8000", server.http_url)
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True)
    picture = Image.open(io.BytesIO((tmp_path / "result.jpg").read_bytes()))
    assert picture.format == "JPEG"
    assert picture.size == (1024, 1024)
