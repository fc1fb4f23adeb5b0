"""Seeing that a tritonserver can no longer make pictures, whatever it says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from backdrop_server.triton.board import board_path
from backdrop_server.triton.hangs import StepWatch
from backdrop_server.triton.launcher import TritonServer
from backdrop_server.triton.vitals import Vitals

_LOOK_SECONDS = 0.2
_MEMORY_SECONDS = 5.0
_MIB = 2**20


class Supervisor:
    """Watches a ready server; one that is ill has to be killed and started again."""

    def __init__(
        self,
        server: TritonServer,
        memory_limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``memory_limit``: MiB that the server and its stubs may hold; None for any."""
        self._server = server
        self._limit = memory_limit
        self._vitals = Vitals(server.pid, clock)
        self._steps = StepWatch(board_path(server.pid), clock)
        self._clock = clock
        self._look_at = self._weigh_at = clock()

    def look(self) -> str | None:
        """Why the server has to be started again, as a sentence without its end; else None.

        Never waits; looks closely only now and then, so that it may be called often.
        """
        status = self._server.poll()
        if status is not None:
            return f"tritonserver ended by itself with status {status}"
        now = self._clock()
        if now < self._look_at:
            return None
        self._look_at = now + _LOOK_SECONDS
        ailment = self._vitals.look()
        if ailment is not None:
            return str(ailment)
        if self._steps.hangs():
            return f"no request made a step for {self._steps.limit:.0f} s"
        return self._too_heavy(now)

    def _too_heavy(self, now: float) -> str | None:
        if self._limit is None or now < self._weigh_at:
            return None
        self._weigh_at = now + _MEMORY_SECONDS
        held = self._vitals.memory() / _MIB
        if held <= self._limit:
            return None
        return f"tritonserver holds {held:.0f} MiB of memory, more than the {self._limit} allowed"
