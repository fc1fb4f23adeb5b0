"""The README's requests to the REST API, run as they stand there but for the port."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.gateway.servers import GatewayProcess

pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[2]


def test_the_rest_request(gateway: GatewayProcess, tmp_path: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = script.replace("http://127.0.0.1:8080", gateway.url)
    (tmp_path / "client").symlink_to(ROOT / "client")
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"BACKDROP_KEY": gateway.make_key()},
    )
    with Image.open(tmp_path / "picture.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))


def test_the_python_request(gateway: GatewayProcess, tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(ast.parse(script).body) == 3
    own = {"BACKDROP_URL": gateway.url, "BACKDROP_KEY": gateway.make_key()}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=os.environ | own)
    with Image.open(tmp_path / "result.png") as picture:
        assert picture.size == (1024, 1024)
