"""Signs of life of the gateways on one database; a live one takes over the jobs of a dead one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from backdrop_server.errors import SetupError, UnavailableError
from backdrop_server.gateway import jobs
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.jobs import Job
from backdrop_server.gateway.tables import gateways
from backdrop_server.gateway.transactions import read, write
from backdrop_server.settings import Settings

GATEWAY_IS_GONE = "the gateway that held the request stopped; send it again"
MAX_NAME = 50
"""Characters of a gateway's name."""
_DECLARED_DEAD = 70
"""Exit status of a gateway that others have taken for dead: it must not go on beside them."""
log = logging.getLogger("backdrop.presence")


def gateway_name(settings: Settings) -> str:
    """The name that a gateway keeps over restarts: its own, or its host and port.

    A long one is cut and gets a digest: two that begin alike would take each other for dead.
    """
    name = settings.gateway_id or f"{socket.gethostname()}:{settings.port}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME - 17]}-{digest}"


class Presence:
    """This gateway's row among the gateways. ``id``: its name and what tells this start from others."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._name = gateway_name(settings)
        self.id = f"{self._name}/{uuid.uuid4().hex[:8]}"
        self._settings = settings
        self._database = database
        self._url = str(settings.public_url or "")

    async def begin(self) -> list[Job]:
        """Enter, and take over what an earlier start under the same name has left."""
        return await write(self._database, self._enter)

    async def end(self) -> None:
        """Leave: what is unfinished is taken over at once by whoever looks next."""

        def leave(connection: Connection) -> None:
            own = gateways.c.id == self.id
            connection.execute(update(gateways).where(own).values(heartbeat_at=0.0))

        await write(self._database, leave)

    async def watch(
        self,
        take_over: Callable[[list[Job]], None],
        cancel: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Show signs of life, pass on cancels, and take over from the dead, for ever."""
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            try:
                await self._look_around(take_over, cancel)
            except (DBAPIError, SetupError, UnavailableError) as error:
                log.error("the database does not answer", extra={"reason": type(error).__name__})

    async def _look_around(
        self,
        take_over: Callable[[list[Job]], None],
        cancel: Callable[[str], Awaitable[bool]],
    ) -> None:
        is_alive, cancelled = await write(self._database, self._beat)
        if not is_alive:
            log.error("declared dead by another gateway; ending", extra={"gateway": self.id})
            os._exit(_DECLARED_DEAD)
        for job_id in cancelled:
            await cancel(job_id)
        if await read(self._database, self._has_work_left):
            taken = await write(self._database, self._take_over)
            take_over(taken)

    def _enter(self, connection: Connection) -> list[Job]:
        now = time.time()
        connection.execute(
            insert(gateways).values(id=self.id, started_at=now, heartbeat_at=now, url=self._url)
        )
        same_name = gateways.c.id.startswith(f"{self._name}/", autoescape=True)
        return self._take_from(connection, same_name & (gateways.c.id != self.id))

    def _beat(self, connection: Connection) -> tuple[bool, list[str]]:
        statement = (
            update(gateways).where(gateways.c.id == self.id).values(heartbeat_at=time.time())
        )
        is_alive = connection.execute(statement).rowcount == 1
        return is_alive, jobs.cancelled_of(connection, self.id)

    def _has_work_left(self, connection: Connection) -> bool:
        lapsed = select(gateways.c.id).where(self._is_lapsed()).limit(1)
        return connection.execute(lapsed).first() is not None or jobs.has_orphans(connection)

    def _is_lapsed(self) -> ColumnElement[bool]:
        """Others only: one that waited long for its turn must not take itself for dead."""
        lapsed = gateways.c.heartbeat_at < time.time() - self._settings.lapse
        return lapsed & (gateways.c.id != self.id)

    def _take_over(self, connection: Connection) -> list[Job]:
        return self._take_from(connection, self._is_lapsed())

    def _take_from(self, connection: Connection, dead: ColumnElement[bool]) -> list[Job]:
        """Remove dead gateways and make their jobs this one's; one of several rivals succeeds."""
        removed = delete(gateways).where(dead).returning(gateways.c.id)
        gone = list(connection.execute(removed).scalars())
        taken = jobs.take_over(connection, self.id)
        waited_for = [job for job in taken if job.kind == jobs.WAIT and job.is_open]
        for job in waited_for:
            jobs.fail(connection, job.id, GATEWAY_IS_GONE, 503, attempt=job.attempt)
        if gone or taken:
            extra = {"gateways": gone, "taken": len(taken), "ended": len(waited_for)}
            log.warning("took over from gateways that are gone", extra=extra)
        return taken
