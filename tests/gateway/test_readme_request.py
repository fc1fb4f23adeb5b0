"""The README's request to the REST API, run as it stands there but for the port."""

from __future__ import annotations

import os
import re
import subprocess
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
        env=os.environ | {"API_KEY": gateway.make_key()},
    )
    with Image.open(tmp_path / "picture.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))
