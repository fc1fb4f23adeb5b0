"""Starting a process that cannot outlive us and takes no signal of our terminal."""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
_STOPPING = {signal.SIGTERM, signal.SIGINT}


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start ``command`` in a group of its own; ``options`` are those of ``subprocess.Popen``.

    The kernel sends it SIGTERM when the thread that called this ends. Raises OSError.
    """
    libc = ctypes.CDLL(None)
    # An exception out of a signal's handler is lost in the hooks that Python runs around a fork.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 (two calls of the kernel; nothing else runs there)
            **options,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
