"""The Dockerfile's own steps, in a plain virtual environment; needs the package registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STEPS = Path(__file__).parents[2] / "server_ext" / "container" / "check_steps.py"


def test_its_own_steps_run_and_the_client_needs_no_torch() -> None:
    """The plain client; ``check_steps.py`` without ``--extras`` does all that the image has."""
    done = subprocess.run(
        [sys.executable, STEPS, "--extras", ""], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch not imported" in done.stdout
