"""How far the host may run ahead of a device: one step is queued behind the one that runs, no more.

On the host's own processor there is nothing to run ahead of: every step is done when it returns.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Event(Protocol):
    """A mark in a device's queue, as ``torch.cuda.Event``."""

    def record(self) -> None:
        """Put the mark behind all that is queued now."""

    def synchronize(self) -> None:
        """Wait until the device has come to the mark."""


class Pace(Protocol):
    """Numbers the calls of ``execute`` and says which of them the device is through with."""

    call: int

    def step_queued(self) -> int:
        """After all work of this call was queued: the last call whose results are on the host."""
        ...

    def nothing_queued(self) -> int:
        """As ``step_queued`` for a call that had no work: everything before it is waited for."""
        ...


class HostPace:
    """Every call is done when its work returns."""

    def __init__(self) -> None:
        self.call = 0

    def step_queued(self) -> int:
        """See ``Pace``: this call."""
        self.call += 1
        return self.call - 1

    nothing_queued = step_queued


class OneStepAhead:
    """Each call waits for the step before its own, which the device has then just finished.

    So the device always has the next step to go on with, and the queue never holds more than that.
    """

    def __init__(self, make_event: Callable[[], Event]) -> None:
        self.call = 0
        self._make_event = make_event
        self._last: Event | None = None
        self._waits = False
        """Whether the device may still be on its way to the last mark."""

    def step_queued(self) -> int:
        """See ``Pace``: the call before this one."""
        event = self._make_event()
        event.record()
        before, self._last = self._last, event
        waits, self._waits = self._waits, True
        self.call += 1
        if before is not None and waits:
            before.synchronize()
        return self.call - 2

    def nothing_queued(self) -> int:
        """See ``Pace``: this call, and with it every one before."""
        self.call += 1
        self._waits = False
        # Also when the mark was come to long ago: a device that has failed since says so then.
        if self._last is not None:
            self._last.synchronize()
        return self.call - 1


class Stopwatch(Protocol):
    """Runs from when it was made."""

    def stop(self) -> None:
        """Stop it."""

    def seconds(self) -> float:
        """What it shows; on a device only when that has come so far."""
        ...


class HostStopwatch:
    """Seconds on the host's clock."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._seconds = 0.0

    def stop(self) -> None:
        """See ``Stopwatch``."""
        self._seconds = time.monotonic() - self._begun

    def seconds(self) -> float:
        """See ``Stopwatch``."""
        return self._seconds


class CudaStopwatch:
    """Seconds between two marks in the device's queue. Built, not run: no GPU was at hand."""

    def __init__(self) -> None:
        self._begun: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._ended: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._begun.record()

    def stop(self) -> None:
        """See ``Stopwatch``."""
        self._ended.record()

    def seconds(self) -> float:
        """See ``Stopwatch``."""
        return float(self._begun.elapsed_time(self._ended)) / 1000


class Lane:
    """Where the loop runs: its device, the stream of its work, its pace, its clock."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.pace: Pace = HostPace()
        self.stopwatch: Callable[[], Stopwatch] = HostStopwatch
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self.pace = OneStepAhead(torch.cuda.Event)
            self.stopwatch = CudaStopwatch
            # Not the default stream: TensorRT synchronises the device on every call there.
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def wait(self, stepped: bool) -> int | Exception:
        """The last call that is done; what the device says when it failed, which it does for good."""
        try:
            return self.pace.step_queued() if stepped else self.pace.nothing_queued()
        except Exception as error:
            return error

    def open(self) -> contextlib.AbstractContextManager[object]:
        """A context in which torch queues its work in this lane."""
        if self._stream is None:
            return contextlib.nullcontext()
        return torch.cuda.stream(self._stream)


END_AFTER = 1.0
"""Seconds in which Triton takes back the requests of the call under way."""


def end_process_soon() -> None:
    """End this process without any clearing up, which a failed device would hang or fail."""
    timer = threading.Timer(END_AFTER, os._exit, (1,))
    timer.daemon = True
    timer.start()
