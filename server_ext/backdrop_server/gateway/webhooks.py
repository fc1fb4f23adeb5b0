"""Telling a customer's server that a job has ended, signed so that it can be told from a forgery."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from backdrop_server.errors import BackdropError
from backdrop_server.gateway import jobs
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.fetching import Fetcher
from backdrop_server.gateway.jobs import Job
from backdrop_server.gateway.links import Signer, webhook_signature
from backdrop_server.gateway.transactions import read, write

TIMESTAMP_HEADER = "x-backdrop-timestamp"
SIGNATURE_HEADER = "x-backdrop-signature"


class Webhooks:
    """Sends the answer of ``GET /v2/requests/{id}`` to the job's ``webhook_url``."""

    def __init__(
        self,
        database: Database,
        fetcher: Fetcher,
        signer: Signer,
        describe: Callable[[Job], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """``describe`` makes the body for a job that has ended."""
        self._database = database
        self._fetcher = fetcher
        self._signer = signer
        self._describe = describe

    async def deliver(self, job_id: str) -> None:
        """Send it once. Raises BackdropError unless the answer is 2xx."""
        job = await read(self._database, lambda connection: jobs.find(connection, job_id))
        if job is None or job.request.webhook_url is None or job.webhook_state != "PENDING":
            return
        body = json.dumps(await self._describe(job)).encode()
        timestamp = int(time.time())
        secret = self._signer.webhook_secret(job.key_id)
        headers = {
            "content-type": "application/json",
            "x-request-id": job_id,
            TIMESTAMP_HEADER: str(timestamp),
            SIGNATURE_HEADER: webhook_signature(secret, timestamp, body),
        }
        status = await self._fetcher.post(job.request.webhook_url, body, headers)
        if not 200 <= status < 300:
            raise BackdropError(f"the webhook's server answered {status}")
        await self._note(job_id, "DELIVERED")

    async def give_up(self, job_id: str) -> None:
        """Note that every try has failed."""
        await self._note(job_id, "FAILED")

    async def _note(self, job_id: str, state: str) -> None:
        await write(
            self._database, lambda connection: jobs.set_webhook_state(connection, job_id, state)
        )
