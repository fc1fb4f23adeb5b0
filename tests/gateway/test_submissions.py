"""From a request to a job: what was sent twice, and what was sent at the same time."""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal
from pathlib import Path

import pytest

from backdrop_server.contract import ReplaceOptions
from backdrop_server.gateway import jobs, keys, ledger
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.errors import InsufficientCreditsError
from backdrop_server.gateway.estimates import Estimate
from backdrop_server.gateway.fetching import Fetcher
from backdrop_server.gateway.keys import Key
from backdrop_server.gateway.metrics import Metrics
from backdrop_server.gateway.pool import TritonPool
from backdrop_server.gateway.request import Body
from backdrop_server.gateway.runner import Runner
from backdrop_server.gateway.store import Store
from backdrop_server.gateway.submissions import Submission, Submissions
from backdrop_server.settings import load_settings
from tests.gateway.fetches import policy

PRICE = Decimal("0.01")


def key_that_can_pay_one(database: Database) -> Key:
    with database.writing() as connection:
        key, _ = keys.create(connection, "a test")
        ledger.grant(connection, key.id, PRICE, "for a test")
    return key


def submission() -> Submission:
    body = Body(
        options=ReplaceOptions(prompt="a table", seed=7),
        pictures={},
        base64=None,
        dry_run=False,
        webhook_url=None,
        layers=False,
        timeout=None,
    )
    return Submission(body, {"image": b"a picture"}, Estimate(20, 1, 1, PRICE, PRICE), "a digest")


def test_a_twin_that_took_the_last_credits_is_the_answer(
    database: Database, tmp_path: Path
) -> None:
    """Two that are sent at once both see no twin; the slower one must not hear of credits."""
    key = key_that_can_pay_one(database)
    store = Store(str(tmp_path / "pictures"))
    pool = TritonPool([], 1)
    runner = Runner(load_settings(), "a gateway", database, pool, store, Metrics())

    async def work() -> tuple[str, str]:
        async with Fetcher(policy()) as fetcher:
            submissions = Submissions(database, store, fetcher, runner, "a gateway")

            async def accept(name: str | None) -> str:
                job_id = uuid.uuid4().hex
                job = await submissions.accept(job_id, jobs.QUEUE, key, submission(), name)
                return job.id

            ids = await accept("order-1"), await accept("order-1")
            for other in ("order-2", None):
                with pytest.raises(InsufficientCreditsError):
                    await accept(other)
            return ids

    first, second = asyncio.run(work())
    assert first == second
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == [first]


def test_an_id_that_postgresql_cannot_hold_is_unknown(database: Database) -> None:
    with database.reading() as connection:
        assert jobs.find(connection, "a\0b") is None
