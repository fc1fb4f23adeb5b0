"""Transactions of the database in worker threads, so that the event loop never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from sqlalchemy import Connection

from backdrop_server.gateway.database import Database

T = TypeVar("T")


async def read(database: Database, action: Callable[[Connection], T]) -> T:
    """Run ``action`` in a reading transaction, in a worker thread."""

    def work() -> T:
        with database.reading() as connection:
            return action(connection)

    return await anyio.to_thread.run_sync(work)


async def write(database: Database, action: Callable[[Connection], T]) -> T:
    """Run ``action`` in a writing transaction, in a worker thread."""

    def work() -> T:
        with database.writing() as connection:
            return action(connection)

    return await anyio.to_thread.run_sync(work)
