"""From a request's body to a job: pictures fetched and checked, choices resolved, credits reserved."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from collections.abc import Mapping
from decimal import Decimal

import anyio.to_thread
from sqlalchemy.exc import IntegrityError

from backdrop_server.contract import MAX_SEED
from backdrop_server.gateway import jobs, ledger
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.errors import InsufficientCreditsError
from backdrop_server.gateway.estimates import Estimate
from backdrop_server.gateway.fetching import Fetcher
from backdrop_server.gateway.jobs import Job, JobRequest, NewJob
from backdrop_server.gateway.keys import Key
from backdrop_server.gateway.request import (
    Body,
    check_pictures,
    decode_picture,
    is_url,
    read_body,
    read_matte_body,
)
from backdrop_server.gateway.runner import Runner
from backdrop_server.gateway.store import Store
from backdrop_server.gateway.transactions import read, write


@dataclasses.dataclass(frozen=True)
class Sent:
    """A body that is in order, and the digest of its bytes; its pictures are still to be had."""

    body: Body
    digest: str


@dataclasses.dataclass(frozen=True)
class Submission:
    """A request that is in order: its body, its pictures as files, and what it will cost."""

    body: Body
    pictures: Mapping[str, bytes]
    estimate: Estimate
    digest: str
    """Of the body as it was sent."""


class Submissions:
    """Reads requests and makes jobs of them."""

    def __init__(
        self, database: Database, store: Store, fetcher: Fetcher, runner: Runner, gateway: str
    ) -> None:
        self._database = database
        self._store = store
        self._fetcher = fetcher
        self._runner = runner
        self._gateway = gateway

    async def read(self, data: bytes) -> Sent:
        """Check a body as far as that needs nothing but itself. Raises InvalidInputError."""
        return await anyio.to_thread.run_sync(_read, data)

    async def prepare(self, sent: Sent) -> Submission:
        """Fetch and check its pictures, choose, estimate. Raises InvalidInputError."""
        body = sent.body
        if body.webhook_url is not None:
            await self._fetcher.check(body.webhook_url, "webhook_url")
        pictures = await self._pictures(body.pictures)
        # In a thread: to walk through a hostile file takes seconds.
        photo = await anyio.to_thread.run_sync(check_pictures, pictures)
        seed = body.options.seed
        if seed < 0:  # here, so that a request that is sent again comes out the same
            seed = random.randint(0, MAX_SEED)  # noqa: S311 (a seed is no secret)
        options = dataclasses.replace(body.options, seed=seed)
        estimate = self._runner.estimator.estimate(options, photo, self._runner.pool.costs)
        body = dataclasses.replace(body, options=options)
        return Submission(body, pictures, estimate, sent.digest)

    async def read_matte(self, data: bytes) -> Mapping[str, bytes]:
        """The pictures of a request for a matte alone. Raises InvalidInputError."""
        texts = await anyio.to_thread.run_sync(read_matte_body, data)
        pictures = await self._pictures(texts)
        await anyio.to_thread.run_sync(check_pictures, pictures)
        return pictures

    async def balance(self, key: Key) -> Decimal:
        """Credits that the key can still spend."""
        return await read(self._database, lambda connection: ledger.balance(connection, key.id))

    async def find_twin(
        self, key: Key, idempotency_key: str | None, sent: Sent | Submission
    ) -> Job | None:
        """The job that this very request was made into before. Raises InvalidInputError.

        To be asked before ``prepare``: a URL in the request may be dead by now, its job is not.
        """
        if idempotency_key is None or sent.body.dry_run:
            return None
        return await read(
            self._database,
            lambda connection: jobs.find_by_idempotency_key(
                connection, key.id, idempotency_key, sent.digest
            ),
        )

    async def accept(
        self,
        job_id: str,
        kind: str,
        key: Key,
        submission: Submission,
        idempotency_key: str | None = None,
    ) -> NewJob | Job:
        """Make the job and reserve its credits; with an idempotency key used before, that job.

        Raises InsufficientCreditsError, or InvalidInputError for a key of another request; then
        nothing is left behind.
        """
        job = self._new_job(job_id, kind, key, submission, idempotency_key)
        if kind == jobs.QUEUE:  # first, so that an accepted job has its pictures
            await self._store.put(job_id, submission.pictures)
        try:
            await write(self._database, lambda connection: jobs.accept(connection, job))
        except BaseException as error:
            if kind == jobs.QUEUE:
                await self._store.remove(job_id)
            if isinstance(error, (IntegrityError, InsufficientCreditsError)):
                # Perhaps its twin, sent at the same time, was faster and took the last credits.
                twin = await self.find_twin(key, idempotency_key, submission)
                if twin is not None:
                    return twin
            raise
        return job

    def _new_job(
        self,
        job_id: str,
        kind: str,
        key: Key,
        submission: Submission,
        idempotency_key: str | None,
    ) -> NewJob:
        body, estimate = submission.body, submission.estimate
        return NewJob(
            id=job_id,
            key_id=key.id,
            kind=kind,
            request=JobRequest(
                options=body.options,
                pictures=tuple(submission.pictures),
                base64=bool(body.base64),
                webhook_url=body.webhook_url,
                expected_loop_seconds=estimate.loop_seconds,
                layers=body.layers,
                timeout=body.timeout,
            ),
            evaluations=estimate.evaluations,
            reservation=estimate.reservation,
            gateway=self._gateway,
            idempotency_key=idempotency_key,
            body_digest=submission.digest if idempotency_key else None,
        )

    async def _pictures(self, texts: Mapping[str, str]) -> dict[str, bytes]:
        """The picture files, those given by URL fetched side by side."""
        files = await asyncio.gather(*(self._picture(name, text) for name, text in texts.items()))
        return dict(zip(texts, files, strict=True))

    async def _picture(self, field: str, text: str) -> bytes:
        if is_url(text):
            return await self._fetcher.fetch_picture(text, field)
        return await anyio.to_thread.run_sync(decode_picture, text, field)


def _read(data: bytes) -> Sent:
    return Sent(read_body(data), hashlib.sha256(data).hexdigest())
