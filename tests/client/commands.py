"""The installed `backdrop` command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

BACKDROP = str(Path(sys.executable).with_name("backdrop"))


def environment(url: str = "", key: str = "") -> dict[str, str]:
    """As a user's, wide enough for every sentence; no key but ``key``."""
    own = {"BACKDROP_URL": url, "BACKDROP_KEY": key, "COLUMNS": "200", "NO_COLOR": "1"}
    return {name: text for name, text in {**os.environ, **own}.items() if text}


def run(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; ``options``: url, key."""
    return subprocess.run(
        [BACKDROP, *map(str, arguments)],
        cwd=cwd,
        env=environment(**options),
        capture_output=True,
        text=True,
        check=False,
    )


def start(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the command; it hears Ctrl-C even where these tests do not, in a shell's background."""
    return subprocess.Popen(
        [BACKDROP, *map(str, arguments)],
        cwd=cwd,
        env=environment(**options),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    """It ended with this status, and said one line on stderr with these words."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert words in lines[0]
