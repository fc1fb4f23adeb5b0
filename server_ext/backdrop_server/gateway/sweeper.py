"""Results go after an hour; so do pictures of requests that never became a job."""

from __future__ import annotations

import asyncio
import logging
import time

from backdrop_server.gateway import forgetting
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.store import Store
from backdrop_server.gateway.transactions import read, write
from backdrop_server.gateway.workflows import Workflows
from backdrop_server.settings import Settings

_ORPHAN_AFTER = 600.0
"""Seconds in which a request must have become a job."""
log = logging.getLogger("backdrop.sweeper")


class Sweeper:
    """Removes pictures whose time is over. Several gateways may sweep the same store."""

    def __init__(
        self, settings: Settings, database: Database, store: Store, workflows: Workflows
    ) -> None:
        self._keep = settings.keep_results
        self._pause = min(60.0, settings.keep_results / 4)
        self._database = database
        self._store = store
        self._workflows = workflows
        self._unknown_since: dict[str, float] = {}

    async def watch(self) -> None:
        """Sweep once a minute, for ever."""
        while True:
            await asyncio.sleep(self._pause)
            try:
                await self.sweep()
            except Exception as error:  # the store's or the database's: next minute is another one
                log.error("could not sweep", exc_info=error)

    async def sweep(self) -> None:
        """Remove what is over now."""
        moment = time.time() - self._keep
        over = await read(
            self._database, lambda connection: forgetting.ended_before(connection, moment)
        )
        gone = [job_id for job_id in over if await self._remove(job_id)]
        if gone:
            await write(self._database, lambda connection: forgetting.mark_swept(connection, gone))
            await self._workflows.forget(gone)
        await self._sweep_orphans()

    async def _remove(self, job_id: str) -> bool:
        """Whether its pictures are gone; one that stays must not keep the others."""
        try:
            await self._store.remove(job_id)
        except Exception as error:  # every driver has errors of its own
            log.error("pictures were not removed", exc_info=error, extra={"job": job_id})
            return False
        return True

    async def _sweep_orphans(self) -> None:
        """Pictures that were stored for a request which then did not become a job."""
        stored = await self._store.job_ids()
        unknown = await read(
            self._database, lambda connection: forgetting.unknown_of(connection, stored)
        )
        now = time.monotonic()
        since = {job_id: self._unknown_since.get(job_id, now) for job_id in unknown}
        for job_id in [job_id for job_id, first in since.items() if now - first > _ORPHAN_AFTER]:
            if await self._remove(job_id):
                del since[job_id]
        self._unknown_since = since
