"""When the requests of a call step, wait for others that Triton has yet to bring, or go back to it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from backdrop_server.triton.board import Board
from backdrop_server.triton.job import Job

STAY = 1.0
"""Seconds after which the requests go back to Triton, whoever waits there unseen."""
MISSED_FOR = 5.0
"""Seconds after which a request that was handed back is not waited for any more: Triton dropped it."""
REUNION = 0.02
"""Seconds that requests wait for those of the last call that Triton has not brought back with them.

Two that came apart would else take step after step by turns: each is back when the other's has begun.
"""
PAUSE = 0.0005
"""Seconds of such a wait in which the core is Triton's, which brings them."""


class Gathering:
    """Who of the requests in flight, ``jobs`` by correlation id, is in the call under way."""

    def __init__(self, board: Board, jobs: Mapping[int, Job]) -> None:
        self._board = board
        self._jobs = jobs
        self.begun_at = self._ended_at = -math.inf
        """Monotonic seconds: of the call that last stepped, its begin and its end."""
        self._expected: set[int] = set()

    def begins(self, requests: Sequence[Any]) -> bool:
        """Whether ``requests`` step in this call; if not, they were handed back to wait for others."""
        now, here = time.monotonic(), _ids(requests)
        if now - self._ended_at < REUNION and self._expected - here:
            time.sleep(PAUSE)
            _hand_back(requests)
            self._expected |= here  # whom the next call brings waits for these
            return False
        self.begun_at = now
        return True

    def stays(self, requests: Sequence[Any]) -> bool:
        """Whether ``requests`` take their next step in this call too."""
        now = time.monotonic()
        if now - self.begun_at > STAY or self._board.somebody_waits():
            return False
        # One handed back may have missed this call: it would stand still while these take its steps.
        here = _ids(requests)
        return not any(
            correlation_id not in here and now - job.seen_at < MISSED_FOR
            for correlation_id, job in self._jobs.items()
        )

    def end(self, going: Sequence[Any]) -> None:
        """Let Triton bring those with steps left, ``going``, again with its next call."""
        _hand_back(going)
        self._expected = _ids(going)
        self._ended_at = time.monotonic()


def _ids(requests: Sequence[Any]) -> set[int]:
    return {request.correlation_id() for request in requests}


def _hand_back(requests: Sequence[Any]) -> None:
    for request in requests:
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
