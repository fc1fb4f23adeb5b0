"""What `denoise` shows on Triton's own metrics page."""

from __future__ import annotations

import collections
from typing import Any

import triton_python_backend_utils as pb_utils

from backdrop_server.triton.pacing import Stopwatch


class LoopMetrics:
    """Counters of the engine's calls, and a gauge of the requests in the loop.

    They go to Triton once in a call of ``execute``: each is a message to another process, and none
    of them belongs into the time of an engine call.
    """

    def __init__(self) -> None:
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._families: list[Any] = []
        self.calls = self._add("engine_calls_total", "Calls of unet_controlnet", counter)
        self.rows = self._add("engine_rows_total", "Rows in all those calls", counter)
        self.padded_rows = self._add(
            "engine_padded_rows_total", "Rows added to fill up to what the engine takes", counter
        )
        self.busy_seconds = self._add("engine_busy_seconds_total", "Time in those calls", counter)
        self.in_flight = self._add("requests_in_loop", "Requests that have a state now", gauge)
        self._begun: list[tuple[int, int]] = []
        self._timed: collections.deque[tuple[int, Stopwatch]] = collections.deque()
        self._done = -1

    def _add(self, name: str, description: str, kind: Any) -> Any:
        family = pb_utils.MetricFamily(name=f"backdrop_{name}", description=description, kind=kind)
        self._families.append(family)  # it must live as long as its metric
        return family.Metric(labels={"model": "denoise"})

    def note_call(self, rows: int, padded_rows: int) -> None:
        """Note that the engine is called, with how many rows."""
        self._begun.append((rows, padded_rows))

    def note_time(self, call: int, stopwatch: Stopwatch) -> None:
        """Note an engine call's time, to be read when the device is through with its step, ``call``."""
        self._timed.append((call, stopwatch))

    def note_done(self, call: int) -> None:
        """Note that the device is through with ``call`` and all before it."""
        self._done = call

    def publish(self, in_flight: int) -> None:
        """Count all calls noted and the time of those that are done; ``in_flight``: requests now."""
        if self._begun:
            rows, padded_rows = (sum(column) for column in zip(*self._begun, strict=True))
            self.calls.increment(len(self._begun))
            self.rows.increment(rows)
            self.padded_rows.increment(padded_rows)
            self._begun.clear()
        seconds = 0.0
        while self._timed and self._timed[0][0] <= self._done:
            seconds += self._timed.popleft()[1].seconds()
        if seconds:
            self.busy_seconds.increment(seconds)
        self.in_flight.set(in_flight)
