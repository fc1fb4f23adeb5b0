"""A request's own ``timeout``: when it has passed the job is cancelled, wherever it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from backdrop_server.errors import CancelledError
from backdrop_server.gateway.live import Live


@contextlib.asynccontextmanager
async def deadline(
    live: Live, ends_at: float | None, cancel: Callable[[str], Awaitable[object]]
) -> AsyncIterator[None]:
    """Within this block call ``cancel`` with the job's id at ``ends_at``, in epoch seconds.

    The job's own clock began when it was accepted, so it goes on over restarts of gateways.
    """

    async def expire(seconds: float) -> None:
        await asyncio.sleep(seconds)
        live.is_late = True
        await cancel(live.job_id)

    if ends_at is None:
        yield
        return
    task = asyncio.ensure_future(expire(max(0.0, ends_at - time.time())))
    try:
        yield
    finally:
        task.cancel()


def lateness(seconds: float | None) -> CancelledError:
    """What a job ends with that was cancelled by its deadline."""
    return CancelledError(f"the request was cancelled: its timeout of {seconds:g} s has passed")
