"""Load: requests that arrive when they arrive (an open loop), or so many at a time (a closed one)."""

from __future__ import annotations

import dataclasses
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from backdrop_client.errors import Overloaded

Fields = Mapping[str, Any]
Send = Callable[[Fields], Mapping[str, Any]]
MOST_WAITING = 512
"""Threads, one for each request that is not answered yet."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One request; times in seconds from the start of the run. ``report``: the server's, or empty."""

    arrived: float
    ended: float
    samples: int
    report: Mapping[str, Any]
    error: str | None = None
    refused: bool = False
    """Whether the error is that the server has too much to do."""

    @property
    def latency(self) -> float:
        """From its arrival, not from when it could be sent: no wait is left out."""
        return self.ended - self.arrived


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times within ``seconds``, ``rate`` of them a second on average."""
    draw, times, now = random.Random(seed), [], 0.0  # noqa: S311 (no secret)
    while (now := now + draw.expovariate(rate)) < seconds:
        times.append(now)
    return times


def offered(send: Send, requests: Iterable[Fields], times: Sequence[float]) -> list[Outcome]:
    """Send a request at each of ``times``; all outcomes, in order of arrival."""
    begun = time.monotonic()
    futures: list[Future[Outcome]] = []
    with ThreadPoolExecutor(MOST_WAITING) as pool:
        for arrived, fields in zip(times, requests, strict=False):
            time.sleep(max(0.0, begun + arrived - time.monotonic()))
            futures.append(pool.submit(_ask, send, fields, begun, arrived))
        return [future.result() for future in futures]


def saturated(
    send: Send, requests: Iterator[Fields], in_flight: int, seconds: float
) -> list[Outcome]:
    """Keep ``in_flight`` requests at work for ``seconds``, then let them end; all outcomes."""
    begun = time.monotonic()

    def worker(number: int) -> list[Outcome]:
        ended = []
        while (now := time.monotonic() - begun) < seconds:
            ended.append(_ask(send, next(shared), begun, now))
        return ended

    shared = _Locked(requests)
    with ThreadPoolExecutor(in_flight) as pool:
        return [outcome for ended in pool.map(worker, range(in_flight)) for outcome in ended]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of ``values`` do not exceed."""
    if not values:
        raise ValueError("a percentile needs at least one value")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class _Locked(Iterator[Fields]):
    """An iterator for several threads."""

    def __init__(self, inner: Iterator[Fields]) -> None:
        self._inner, self._lock = inner, threading.Lock()

    def __next__(self) -> Fields:
        with self._lock:
            return next(self._inner)


def _ask(send: Send, fields: Fields, begun: float, arrived: float) -> Outcome:
    error, report, refused = None, {}, False
    try:
        report = dict(send(fields))
    except Exception as raised:  # every door has errors of its own; all are counted
        error = f"{type(raised).__name__}: {raised}"[:200]
        refused = isinstance(raised, Overloaded)
    ended = time.monotonic() - begun
    return Outcome(arrived, ended, int(fields.get("samples", 1)), report, error, refused)
