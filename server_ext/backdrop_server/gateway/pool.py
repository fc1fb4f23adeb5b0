"""All Tritons of a gateway, and the places that jobs get at them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from backdrop_server.costs import Costs
from backdrop_server.errors import CancelledError, UnavailableError
from backdrop_server.gateway.tritons import Triton

PROBE_SECONDS = 0.5
log = logging.getLogger("backdrop.tritons")


class TritonPool:
    """All Tritons; a job gets a place at the one that has the fewest in flight."""

    def __init__(self, tritons: Sequence[Triton], max_in_flight: int) -> None:
        """``max_in_flight``: places at each."""
        self.tritons = tuple(tritons)
        self._places = max_in_flight
        self._changed = asyncio.Condition()
        self._suspects: list[int] = []
        """Losses of the suspects that wait."""

    @property
    def capacity(self) -> int:
        """Places at all Tritons together."""
        return self._places * len(self.tritons)

    @property
    def in_flight(self) -> int:
        """Jobs in Triton now."""
        return sum(triton.in_flight for triton in self.tritons)

    @property
    def is_up(self) -> bool:
        """Whether a picture could be made now."""
        return any(triton.is_up for triton in self.tritons)

    @property
    def costs(self) -> Costs:
        """What an engine run takes. Raises UnavailableError before any Triton has been seen."""
        for triton in self.tritons:
            if triton.costs is not None:
                return triton.costs
        raise UnavailableError("no Triton has answered yet; retry later")

    def at(self, url: str) -> Triton | None:
        """The Triton at that address."""
        return next((triton for triton in self.tritons if triton.url == url), None)

    @contextlib.asynccontextmanager
    async def place(
        self,
        patience: float,
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        losses: int = 0,
    ) -> AsyncIterator[Triton]:
        """A place at a Triton, waited for while all are taken, or while none is up for ``patience``.

        ``losses``, if not 0, makes it that of a suspect, which was in so many Tritons when they were
        lost: no two are in one together, and those with fewer go first, so that one that takes its
        Triton down takes the others' tries no more.

        Raises UnavailableError when patience is over, CancelledError when ``is_cancelled``.
        """
        triton = await self._wait_for_place(patience, is_cancelled, losses)
        triton.in_flight += 1
        triton.suspects += losses > 0
        try:
            yield triton
        finally:
            triton.in_flight -= 1
            triton.suspects -= losses > 0
            await self.wake()

    async def wake(self) -> None:
        """Let those who wait look again: a place is free, a Triton is up, a job is cancelled."""
        async with self._changed:
            self._changed.notify_all()

    async def watch(self) -> None:
        """Probe every Triton every PROBE_SECONDS, for ever."""
        while True:
            await self.probe()
            await asyncio.sleep(PROBE_SECONDS)

    async def probe(self) -> None:
        """Probe every Triton once."""
        before = [triton.is_up for triton in self.tritons]
        await asyncio.gather(*(triton.probe() for triton in self.tritons))
        changed = [t for t, was in zip(self.tritons, before, strict=True) if t.is_up != was]
        for triton in changed:
            log.info(
                "triton is up" if triton.is_up else "triton is down", extra={"triton": triton.url}
            )
        if changed:
            await self.wake()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(triton.close() for triton in self.tritons))

    async def _wait_for_place(
        self, patience: float, is_cancelled: Callable[[], bool], losses: int
    ) -> Triton:
        up_at = time.monotonic()
        async with self._changed, self._in_line(losses):
            while True:
                if is_cancelled():
                    raise CancelledError("the request was cancelled")
                if (free := self._freest(losses)) is not None:
                    return free
                if self.is_up:
                    up_at = time.monotonic()
                elif time.monotonic() - up_at > patience:
                    raise UnavailableError("no Triton is up; retry later")
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), PROBE_SECONDS)

    @contextlib.asynccontextmanager
    async def _in_line(self, losses: int) -> AsyncIterator[None]:
        if not losses:
            yield
            return
        self._suspects.append(losses)
        try:
            yield
        finally:
            self._suspects.remove(losses)
            self._changed.notify_all()

    def _freest(self, losses: int) -> Triton | None:
        free = [t for t in self.tritons if t.is_up and t.in_flight < self._places]
        if losses:
            is_first = losses <= min(self._suspects)
            free = [triton for triton in free if is_first and not triton.suspects]
        return min(free, key=lambda triton: triton.in_flight, default=None)
