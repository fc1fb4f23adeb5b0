"""What the sweeper removes from the store, and what it must leave alone."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from backdrop_server.gateway import sweeper
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.store import Store
from backdrop_server.gateway.sweeper import Sweeper
from backdrop_server.gateway.tables import jobs
from backdrop_server.gateway.workflows import Workflows
from backdrop_server.settings import load_settings
from tests.gateway.test_database import job


def put(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "0.png").write_bytes(b"a picture")
    return folder / name


def ended_job(database: Database, key_id: int) -> str:
    """The id of a job that ended two minutes ago."""
    job_id = uuid.uuid4().hex
    values = job(id=job_id, key_id=key_id) | {"ended_at": time.time() - 120}
    with database.writing() as connection:
        connection.execute(insert(jobs).values(**values))
    return job_id


def swept(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(
            connection.execute(select(jobs.c.id).where(jobs.c.swept_at.is_not(None))).scalars()
        )


async def sweep(database: Database, folder: Path, data_dir: Path) -> None:
    """Sweep once, as a gateway does that keeps results for a minute."""

    async def unused(_: str) -> Any:
        raise AssertionError("no job runs here")

    settings = load_settings({"data_dir": data_dir, "keep_results": 60})
    workflows = Workflows(settings, "a test", unused, unused, unused)
    await workflows.launch()
    try:
        await Sweeper(settings, database, Store(str(folder)), workflows).sweep()
    finally:
        await workflows.close()


def test_only_pictures_of_jobs_are_swept(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_ORPHAN_AFTER", -1.0)
    store = tmp_path / "a folder with other things"
    orphan = put(store, uuid.uuid4().hex)
    others = [put(store, name) for name in ("holiday", "check", uuid.uuid4().hex.upper())]
    asyncio.run(sweep(database, store, tmp_path))
    assert not orphan.exists()
    assert all((other / "0.png").exists() for other in others)


def test_pictures_that_stay_do_not_keep_the_others(
    database: Database, key_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, good = sorted(ended_job(database, key_id) for _ in range(2))
    folders = [put(tmp_path / "pictures", name) for name in (stuck, good)]
    remove = Store.remove

    async def refuse(store: Store, job_id: str) -> None:
        if job_id == stuck:
            raise PermissionError("not yours")
        await remove(store, job_id)

    monkeypatch.setattr(Store, "remove", refuse)
    asyncio.run(sweep(database, tmp_path / "pictures", tmp_path))
    assert [folder.exists() for folder in folders] == [True, False]
    assert swept(database) == {good}
