"""Another process that has the cores, for tests of those who wait for them."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from backdrop_server.triton.cores import Cores

_CONTEXT = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def held(board: Path, seconds: float) -> Iterator[SpawnProcess]:
    """The process, which has taken the cores; it gives them back after ``seconds``, or dies here."""
    has_them = _CONTEXT.Event()
    process = _CONTEXT.Process(target=_hold, args=(board, has_them, seconds))
    process.start()
    try:
        assert has_them.wait(30)
        yield process
    finally:
        process.kill()
        process.join(30)


def _hold(board: Path, has_them: Event, seconds: float) -> None:
    with Cores(board).taken():
        has_them.set()
        time.sleep(seconds)
