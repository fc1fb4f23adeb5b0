"""The processor's cores: all of them for one engine at a time, whichever process it is in."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path


class Cores:
    """A process's claim to the cores of a server's engines.

    An engine's threads meet after every layer, so two that run at once wait for each other's threads
    hundreds of times: together they take longer than one after the other. The lock is POSIX's, on the
    board's file, which `Board` locks in the other way; it goes when its process dies. A graph that
    Triton's native backend runs takes no part.
    """

    def __init__(self, board: Path) -> None:
        """``board``: the file of the server's board, by `board_path`; never closed here, for closing
        it anywhere in this process, or dropping a `Board`, would let go of the cores."""
        self._file = os.open(board, os.O_RDWR | os.O_CREAT, 0o600)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the cores, and hold them. For one thread of a process at a time."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def cores_for(device: str, board: Path) -> Callable[[], AbstractContextManager[None]]:
    """How an engine on ``device`` takes the cores: only one on the CPU needs them."""
    return Cores(board).taken if device == "cpu" else contextlib.nullcontext
