"""The gateway's parts, put together, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

import anyio.to_thread

from backdrop_server.gateway import jobs
from backdrop_server.gateway.admission import Admission, Ticket
from backdrop_server.gateway.answers import Answers
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.fetching import Fetcher, FetchPolicy
from backdrop_server.gateway.jobs import Job
from backdrop_server.gateway.links import Signer
from backdrop_server.gateway.metrics import Metrics
from backdrop_server.gateway.pool import TritonPool
from backdrop_server.gateway.presence import Presence
from backdrop_server.gateway.runner import Runner
from backdrop_server.gateway.store import Store
from backdrop_server.gateway.submissions import Submissions
from backdrop_server.gateway.sweeper import Sweeper
from backdrop_server.gateway.tritons import HttpTriton
from backdrop_server.gateway.webhooks import Webhooks
from backdrop_server.gateway.workflows import Workflows
from backdrop_server.settings import Settings

_RESUME_PAUSE = 1.0
log = logging.getLogger("backdrop")


class Gateway:
    """Everything between a request and Triton; make it inside the event loop that it runs in."""

    def __init__(self, settings: Settings, public_url: str, metrics: Metrics) -> None:
        """``public_url``: what URLs in answers begin with, without a slash at the end."""
        self.settings = settings
        self.metrics = metrics
        self.database = Database(settings.database_url)
        self.store = Store(settings.store_url, settings.store_options)
        tritons = [HttpTriton(url) for url in settings.triton_url]
        self.pool = TritonPool(tritons, settings.max_in_flight)
        self.presence = Presence(settings, self.database)
        self.admission = Admission(self.pool, settings.max_waiting)
        self.fetcher = Fetcher(_fetch_policy(settings))
        self.runner = Runner(
            settings, self.presence.id, self.database, self.pool, self.store, self.metrics
        )
        self.submissions = Submissions(
            self.database, self.store, self.fetcher, self.runner, self.presence.id
        )
        self._public_url = public_url
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the database, take over what was left, and begin to watch the Tritons."""
        await anyio.to_thread.run_sync(self.database.migrate)
        secret = await anyio.to_thread.run_sync(self.database.secret, "signing")
        self.signer = Signer(secret)
        self.answers = Answers(self.settings, self._public_url, self.signer, self.store, self.pool)
        webhooks = Webhooks(self.database, self.fetcher, self.signer, self.answers.result)
        self.workflows = Workflows(
            self.settings,
            self.presence.id,
            self._run_stored,
            webhooks.deliver,
            webhooks.give_up,
        )
        sweeper = Sweeper(self.settings, self.database, self.store, self.workflows)
        await self.pool.probe()
        await self.workflows.launch()
        self._take_up(await self.presence.begin())
        self._watch(self.pool.watch())
        self._watch(self.presence.watch(self._take_up, self.runner.cancel))
        self._watch(sweeper.watch())

    async def stop(self) -> None:
        """Stop watching and leave; unfinished durable jobs go on at the next start or elsewhere."""
        await self.runner.leave()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.workflows.close()
        with contextlib.suppress(Exception):  # the others notice by themselves, only later
            await self.presence.end()
        await self.fetcher.aclose()
        await self.pool.close()
        await anyio.to_thread.run_sync(self.database.close)

    async def begin_stored(self, job_id: str, ticket: Ticket) -> None:
        """Begin a durable job; one that cannot be begun ends at once, and its caller hears of it."""
        self.admission.hand_over(job_id, ticket)
        try:
            await self.workflows.start(job_id)
        except Exception:
            self.admission.take_over(job_id).give_back()
            sentence = "the server could not begin this request"
            await self.runner.write(lambda connection: jobs.fail(connection, job_id, sentence, 500))
            await self.store.remove(job_id)
            raise

    async def drain(self, seconds: float) -> None:
        """Wait until no job is left, at most ``seconds``."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.runner.live and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)

    async def _run_stored(self, job_id: str) -> bool:
        ticket = self.admission.take_over(job_id)
        begun_at = time.monotonic()
        try:
            return await self.runner.run_stored(job_id)
        finally:
            ticket.give_back()
            self.admission.learn(time.monotonic() - begun_at)

    def _take_up(self, taken: list[Job]) -> None:
        """Begin taken-over jobs beside the signs of life, which must not wait for many of them."""
        self._watch(self._resume([job.id for job in taken if job.kind == jobs.QUEUE]))
        self._watch(self._abandon([job for job in taken if job.kind == jobs.WAIT]))

    async def _abandon(self, waited_for: list[Job]) -> None:
        """Nobody waits for them any more; still in Triton, they would hold the engine up."""
        for job in waited_for:
            if job.attempt:
                await self.runner.cancel_everywhere(job.id, job.attempt)

    async def _resume(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            while True:
                try:
                    await self.workflows.resume(job_id)
                    break
                except Exception as error:  # nobody else will begin it while this gateway lives
                    log.error("a job was not taken up", exc_info=error, extra={"job": job_id})
                    await asyncio.sleep(_RESUME_PAUSE)

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(_note_end)
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)


def _note_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a watch of the gateway ended", exc_info=error)


def _fetch_policy(settings: Settings) -> FetchPolicy:
    return FetchPolicy(
        enabled=settings.fetch_urls,
        hosts=settings.fetch_hosts,
        networks=settings.fetch_networks,
        timeout=settings.fetch_timeout,
    )
