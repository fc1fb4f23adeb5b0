"""A store that hangs must not hold the database up: signs of life go through it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from backdrop_server.gateway import jobs
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.store import MAX_THREADS, Store
from backdrop_server.gateway.transactions import read


def test_the_database_does_not_wait_for_a_store_that_hangs(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    begun: list[str] = []

    def hang(_: Store, job_id: str, name: str) -> bytes:
        begun.append(job_id)
        let_go.wait(60)
        return f"{job_id}/{name}".encode()

    monkeypatch.setattr(Store, "_get", hang)

    async def work() -> list[bytes]:
        store = Store(str(tmp_path))
        gets = [asyncio.ensure_future(store.get(str(k), "0.png")) for k in range(2 * MAX_THREADS)]
        while len(begun) < MAX_THREADS:
            await asyncio.sleep(0.01)
        try:
            found = await asyncio.wait_for(
                read(database, lambda connection: jobs.find(connection, "none")), 20
            )
            assert found is None
        finally:
            let_go.set()
        return await asyncio.gather(*gets)

    assert asyncio.run(work()) == [f"{k}/0.png".encode() for k in range(2 * MAX_THREADS)]
