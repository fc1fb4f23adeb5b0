"""Whether the loop makes steps: a server can hang with all its processes alive."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from backdrop_server.triton.board import Board

PATIENCE = 50.0
"""No step for so many times the usual one is a hang."""
LEAST_SECONDS = 30.0
"""But not before: a large picture's first step, on a busy machine, may take this long."""
_KEPT = 50


class StepWatch:
    """Watches the steps that the board of a server counts."""

    def __init__(self, board: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """``board``: its file, which may come later."""
        self._file = board
        self._clock = clock
        self._steps: dict[bytes, int] = {}
        self._moved_at = clock()
        self._usual: deque[float] = deque(maxlen=_KEPT)

    def hangs(self) -> bool:
        """Whether requests run and none has made a step for far longer than usual."""
        with contextlib.suppress(OSError), contextlib.closing(Board(self._file)) as board:
            return self._judge(board.running_steps())
        return False

    @property
    def limit(self) -> float:
        """Seconds without a step that count as a hang."""
        usual = statistics.median(self._usual) if self._usual else 0.0
        return max(LEAST_SECONDS, PATIENCE * usual)

    def _judge(self, steps: dict[bytes, int]) -> bool:
        now = self._clock()
        if steps != self._steps or not steps:
            if steps and self._steps:
                self._usual.append(now - self._moved_at)
            self._steps, self._moved_at = steps, now
            return False
        return now - self._moved_at > self.limit
