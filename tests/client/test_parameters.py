"""The script that draws docs/pictures/parameters.png, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.gateway.servers import GatewayProcess

pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[2]
CELL, LABEL, MARGIN = 220, 34, 12


def test_every_row_of_the_grid_changes_from_left_to_right(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    out = tmp_path / "grid.png"
    own = {"BACKDROP_URL": gateway.url, "BACKDROP_KEY": gateway.make_key()}
    script = [sys.executable, str(ROOT / "docs" / "render_parameters.py"), "--out", str(out)]
    subprocess.run(script, check=True, env=os.environ | own)
    grid = np.asarray(Image.open(out))
    for row in range(4):
        top = MARGIN + row * (CELL + LABEL + MARGIN) + LABEL
        first, *_, last = (
            grid[top : top + CELL, MARGIN + k * (CELL + MARGIN) :][:, :CELL].astype(int)
            for k in range(5)
        )
        assert first.std() > 5
        assert np.abs(first - last).mean() > 1
