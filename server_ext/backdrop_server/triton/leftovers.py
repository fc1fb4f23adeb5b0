"""What a server that was killed leaves behind: stubs, shared memory, folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from backdrop_server.triton.board import SHM_FOLDER


def end_group(group: int) -> None:
    """End the stubs that outlived their server."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def sweep_dead_servers() -> None:
    """Remove the shared memory and the folders of our servers whose process is gone."""
    folders = Path(tempfile.gettempdir())
    for path in (*SHM_FOLDER.glob("backdrop-*"), *folders.glob("backdrop-*-*")):
        owner = next((part for part in path.name.split("-") if part.isdigit()), None)
        if owner is None or _is_alive(owner):
            continue
        with contextlib.suppress(OSError):  # somebody else's, or gone meanwhile
            if path.stat().st_uid != os.getuid():
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _is_alive(pid: str) -> bool:
    """Whether the process runs; a dead one that nobody has waited for does not."""
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
