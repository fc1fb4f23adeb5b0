"""Every block of docs/client.md, run as it stands there but for the ports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import backdrop_client
from backdrop_client import BackdropError, examples
from backdrop_server.triton.launcher import TritonServer
from tests.client.commands import BACKDROP
from tests.gateway.servers import GatewayProcess

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the pictures that the page names."""
    shutil.copy(examples.path("product.jpg"), tmp_path / "product.jpg")
    shutil.copy(examples.path("reference.jpg"), tmp_path / "scene.jpg")
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        with Image.open(examples.path("product.jpg")) as photo:
            photo.resize((96, 96)).save(tmp_path / "photos" / f"{name}.jpg")
    return tmp_path


def said_by(number: int, folder: Path, gateway: GatewayProcess, server: TritonServer) -> str:
    """What the block prints."""
    language, script = BLOCKS[number]
    script = script.replace("127.0.0.1:8001", server.grpc_url)
    shell = ["bash", "-euo", "pipefail", "-c"]
    own = {"BACKDROP_URL": gateway.url, "BACKDROP_KEY": gateway.make_key()}
    own["PATH"] = f"{Path(BACKDROP).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*([sys.executable, "-c"] if language == "python" else shell), script],
        cwd=folder,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PRINTED = (
    r"(\d+/\d+\n)+0\.\d+ credits\n",
    r"0\.\d+\n\w{32} (QUEUED|PROCESSING)\nthe request was cancelled 0?\.?\d*\n",
    r"\[\(\d+,\), \(\d+,\)\]\n",
    r"samples 400 samples: 9 is out of range; allowed: a whole number from 1 to 4\n",
    r"",
    r"\(7,\) \{.*\}\n",
    r"out\.png\nabout 0\.\d+ credits, at most 0\.\d+\n[\d.]+\n\{.*\}\n",
    r"results *\n +made +2 *\n +credits +0\.\d+ *\nrequests-replaced *\n +made +2 *\n +credits .*\n",
)


@pytest.mark.triton
@pytest.mark.parametrize("number", range(len(PRINTED)))
def test_a_block_does_what_it_says(
    number: int, folder: Path, gateway: GatewayProcess, server: TritonServer
) -> None:
    said = said_by(number, folder, gateway, server)
    assert re.fullmatch(PRINTED[number], said), said


def test_all_blocks_are_run() -> None:
    assert len(BLOCKS) == len(PRINTED)
    assert {language for language, _ in BLOCKS} == {"python", "bash"}


def test_every_error_is_in_the_table() -> None:
    names = {
        name
        for name in backdrop_client.__all__
        if isinstance(kind := getattr(backdrop_client, name), type)
        and issubclass(kind, BackdropError)
    }
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    assert names - {"BackdropError"} == set(re.findall(r"`([A-Z]\w+)`", "\n".join(rows)))
