"""Running one job: a place at a Triton, the pictures, the bill; again where its Triton was lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from backdrop_client.triton import Replaced
from backdrop_server.errors import BackdropError, CancelledError, SetupError, UnavailableError
from backdrop_server.gateway import jobs
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.deadlines import deadline, lateness
from backdrop_server.gateway.errors import (
    EndedElsewhereError,
    LostError,
    ServerFailedError,
    status_of,
)
from backdrop_server.gateway.estimates import Estimator, rows_of
from backdrop_server.gateway.jobs import JobRequest
from backdrop_server.gateway.live import Live, Pictures
from backdrop_server.gateway.metrics import Metrics
from backdrop_server.gateway.money import plain, price, seconds_paid
from backdrop_server.gateway.pool import TritonPool
from backdrop_server.gateway.results import outputs_of, result_of
from backdrop_server.gateway.store import Store
from backdrop_server.gateway.transactions import read, write
from backdrop_server.gateway.tritons import Triton, replace_within
from backdrop_server.settings import Settings

T = TypeVar("T")
Load = Callable[[], Awaitable[Mapping[str, bytes]]]
MORE_ATTEMPTS = 3
"""Times ``job_attempts`` that a job is begun over all gateways: one that takes every process down with
it must end some day. From ``job_attempts`` on it is a suspect."""
_DATABASE_PAUSE = 0.5
_LEAVE_SECONDS = 5.0
"""For cancelled jobs to come back from Triton when the gateway stops."""
log = logging.getLogger("backdrop.jobs")


class Runner:
    """Runs the jobs of this gateway, as many at once as the Tritons have places."""

    def __init__(
        self,
        settings: Settings,
        gateway: str,
        database: Database,
        pool: TritonPool,
        store: Store,
        metrics: Metrics,
    ) -> None:
        self.live: dict[str, Live] = {}
        self.estimator = Estimator(settings.price_per_second, settings.reservation_headroom)
        self.pool = pool
        self._settings = settings
        self._gateway = gateway
        self._database = database
        self._store = store
        self._metrics = metrics
        self._is_leaving = False

    async def run(
        self, job_id: str, request: JobRequest, pictures: Mapping[str, bytes]
    ) -> Pictures:
        """Run a job that somebody waits for, and end it in the database.

        Raises the BackdropError that it ended with.
        """

        async def load() -> Mapping[str, bytes]:
            return pictures

        live, patience = Live(job_id, 0), self._settings.patience
        return await self._run(live, request, load, patience, time.time(), keep=False)

    async def run_stored(self, job_id: str) -> bool:
        """Run a job whose pictures are in the store, and put its results there; never raises for it.

        Returns whether a webhook is to be sent. A job that has ended is left as it is.
        """
        job = await self.write(lambda connection: jobs.find(connection, job_id))
        if job is None or job.gateway != self._gateway:  # another gateway has taken it over
            return False
        names = job.request.pictures

        async def load() -> Mapping[str, bytes]:
            return {name: await self._store.get(job_id, name) for name in names}

        if job.is_open:
            if job.attempt:  # a dead gateway's, still in Triton, would only hold the engine up
                await self.cancel_everywhere(job_id, job.attempt)
            with contextlib.suppress(BackdropError):  # it is in the database
                live = Live(job_id, job.attempt)
                patience = self._settings.job_timeout
                await self._run(live, job.request, load, patience, job.created_at, keep=True)
            job = await self.write(lambda connection: jobs.find(connection, job_id))
            if job is None or job.is_open:  # left to another gateway, which needs its pictures
                return False
            await self._remove(job_id, names)
        return job.webhook_state == "PENDING"

    async def _remove(self, job_id: str, names: tuple[str, ...]) -> None:
        try:
            await self._store.remove(job_id, names)
        except Exception as error:  # the sweeper's turn comes; the webhook must not wait for it
            log.error("pictures were not removed", exc_info=error, extra={"job": job_id})

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job of this gateway, wherever it is; whether it was one."""
        live = self.live.get(job_id)
        if live is None:
            return False
        live.is_cancelled = True
        await self.pool.wake()
        await self._cancel_in_triton(live)
        return True

    async def leave(self) -> None:
        """Let go of every job: none ends here, the next start or another gateway goes on with it."""
        self._is_leaving = True
        await self.pool.wake()
        lives = list(self.live.values())
        await asyncio.gather(*(self._cancel_in_triton(live) for live in lives))
        if lives:
            ends = {asyncio.ensure_future(live.ended.wait()) for live in lives}
            await asyncio.wait(ends, timeout=_LEAVE_SECONDS)

    async def _cancel_in_triton(self, live: Live) -> None:
        if live.triton is not None and live.request_id is not None:
            with contextlib.suppress(BackdropError):
                await live.triton.control("cancel", live.request_id)

    async def _run(
        self,
        live: Live,
        request: JobRequest,
        load: Load,
        patience: float,
        accepted_at: float,
        *,
        keep: bool,
    ) -> Pictures:
        self.live[live.job_id] = live
        self._count_jobs()
        ends_at = None if request.timeout is None else accepted_at + request.timeout
        try:
            fields = _fields(request, await load())
            async with deadline(live, ends_at, self.cancel):
                answer = await self._answer(live, fields, outputs_of(request), patience)
            with self._metrics.stage("finish"):
                return await self._finish(live, request, answer, keep)
        except Exception as error:
            if live.is_late and isinstance(error, CancelledError):
                error = lateness(request.timeout)
            raise await self._failed(live, error) from None
        finally:
            del self.live[live.job_id]
            live.ended.set()
            self._count_jobs()

    async def _answer(
        self, live: Live, fields: Mapping[str, object], outputs: Sequence[str], patience: float
    ) -> Replaced:
        """Ask a Triton; another one, or the same again, where it was lost under the request."""
        while True:
            begun_at = time.monotonic()
            losses = live.attempt if live.attempt >= self._settings.job_attempts else 0
            async with self.pool.place(
                patience, lambda: self._is_unwanted(live), losses=losses
            ) as triton:
                self._metrics.stages.labels("wait").observe(time.monotonic() - begun_at)
                self._count_jobs()
                try:
                    return await self._attempt(live, triton, fields, outputs)
                except LostError:
                    self._note_loss(live, triton)

    async def _attempt(
        self, live: Live, triton: Triton, fields: Mapping[str, object], outputs: Sequence[str]
    ) -> Replaced:
        request_id = await self._begin(live, triton)
        if self._is_unwanted(live):
            raise CancelledError("the request was cancelled")
        with self._metrics.stage("triton"):
            return await replace_within(
                triton, request_id, fields, outputs, self._settings.job_timeout
            )

    def _is_unwanted(self, live: Live) -> bool:
        return live.is_cancelled or self._is_leaving

    def _note_loss(self, live: Live, triton: Triton) -> None:
        triton.is_up = False  # until a probe says otherwise
        self._metrics.lost.inc()
        log.warning("triton lost under a job", extra={"job": live.job_id, "triton": triton.url})
        self._refuse_more(live.attempt + 1)

    def _refuse_more(self, attempt: int) -> None:
        most = MORE_ATTEMPTS * self._settings.job_attempts
        if attempt > most:
            raise UnavailableError(f"it was begun {most} times and lost each time; retry later")

    async def _begin(self, live: Live, triton: Triton) -> str:
        attempt = await self.write(
            lambda connection: jobs.begin(connection, live.job_id, self._gateway, triton.url)
        )
        if attempt is None:
            raise EndedElsewhereError("the request was cancelled")
        live.attempt = attempt
        self._refuse_more(attempt)
        if live.request_id is not None:  # perhaps it still runs in the Triton that was lost
            await self.cancel_everywhere(live.job_id, attempt - 1)
        live.triton, live.request_id = triton, f"{live.job_id}.{attempt}"
        self._log("attempt begun", live, triton=triton.url)
        return live.request_id

    async def cancel_everywhere(self, job_id: str, attempt: int) -> None:
        """Cancel an attempt in every Triton: it may be in any, and whoever began it is gone."""
        request_id = f"{job_id}.{attempt}"
        for triton in self.pool.tritons:
            if triton.is_up:
                with contextlib.suppress(BackdropError):
                    await triton.control("cancel", request_id)

    async def _finish(
        self, live: Live, request: JobRequest, answer: Replaced, keep: bool
    ) -> Pictures:
        result = result_of(live.job_id, request, answer)
        if keep:
            await self._store.put(live.job_id, result.files)
        seconds = float(answer.report["seconds_billed"])
        bill = price(seconds, self._settings.price_per_second)
        billed = await self.write(
            lambda connection: jobs.complete(
                connection, live.job_id, live.attempt, seconds, bill, result.content
            )
        )
        if billed is None:
            raise EndedElsewhereError("another gateway has taken the request over")
        self.estimator.learn(
            rows_of(request.options),
            request.expected_loop_seconds,
            float(answer.report["engine_seconds"]),
        )
        self._count_end(live, "COMPLETED", seconds_paid(seconds, bill, billed), billed)
        return Pictures(answer, billed)

    async def _failed(self, live: Live, error: Exception) -> BackdropError:
        """Write the job's end in the database; the error for whoever waits."""
        if isinstance(error, EndedElsewhereError):  # it has its end already
            return error
        if self._is_leaving and not live.is_cancelled:
            return UnavailableError("the server stops; retry later")
        if not isinstance(error, BackdropError) or status_of(error) == 500:
            log.error("a job failed", exc_info=error, extra={"job": live.job_id})
            error = ServerFailedError(live.job_id)
        seconds = await self._seconds_had(live) if isinstance(error, CancelledError) else 0.0
        bill = price(seconds, self._settings.price_per_second)
        status, text = status_of(error), str(error)
        billed = await self.write(
            lambda connection: jobs.fail(
                connection,
                live.job_id,
                text,
                status,
                attempt=live.attempt,
                seconds=seconds,
                bill=bill,
            )
        )
        if billed is not None:
            self._count_end(live, "FAILED", seconds_paid(seconds, bill, billed), billed)
        return error

    async def _seconds_had(self, live: Live) -> float:
        """Engine seconds of a cancelled request: it pays for the steps that it had."""
        if live.triton is None or live.request_id is None:
            return 0.0
        try:
            status = await live.triton.control("status", live.request_id)
        except BackdropError:
            return 0.0
        return float(status["engine_seconds"])

    def _log(self, event: str, live: Live, **extra: object) -> None:
        named = {"gateway": self._gateway, "job": live.job_id, "attempt": live.attempt}
        log.info(event, extra=named | extra)

    def _count_end(self, live: Live, status: str, seconds: float, billed: Decimal) -> None:
        self._log("job ended", live, status=status, seconds=seconds, credits=plain(billed))
        self._metrics.ended.labels(status).inc()
        self._metrics.seconds.inc(seconds)
        self._metrics.credits.inc(float(billed))

    def _count_jobs(self) -> None:
        in_triton = self.pool.in_flight
        self._metrics.jobs.labels("in_triton").set(in_triton)
        self._metrics.jobs.labels("waiting").set(max(0, len(self.live) - in_triton))

    async def read(self, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in a reading transaction, in a worker thread."""
        return await read(self._database, action)

    async def write(self, action: Callable[[Connection], T]) -> T:
        """A transaction, tried until the database takes it: the end of a job must not be lost."""
        while True:
            try:
                return await write(self._database, action)
            except (DBAPIError, SetupError, UnavailableError) as error:
                log.error("the database does not answer", extra={"reason": type(error).__name__})
                await asyncio.sleep(_DATABASE_PAUSE)


def _fields(request: JobRequest, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    options = dataclasses.asdict(request.options)
    return {**pictures, **{name: value for name, value in options.items() if value is not None}}
