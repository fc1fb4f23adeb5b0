"""Many submits at once with a balance for half of them; nothing is spent twice or left open."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from backdrop_server.gateway import ledger
from backdrop_server.gateway.database import Database
from backdrop_server.triton.launcher import TritonServer
from tests.conftest import launch
from tests.gateway.servers import body, gateway_process, wait_for_end

pytestmark = pytest.mark.triton

SUBMITS, COVERED = 200, 100


@pytest.fixture(scope="module")
def own_triton(repository: Path) -> Iterator[TritonServer]:
    """A server that this module may hold still."""
    with launch(repository) as running:
        yield running


def submit(client: httpx.Client, seed: int) -> httpx.Response:
    """A job of a single step: strength 0.05 of 20."""
    return client.post("/v2/bg-replace", json=body(seed=seed, strength=0.05))


def test_a_balance_for_a_hundred_accepts_a_hundred(
    database_url: str, own_triton: TritonServer, tmp_path: Path
) -> None:
    settings = {"database": database_url, "max_waiting": SUBMITS, "fetch_timeout": 30}
    with gateway_process(tmp_path / "data", own_triton.http_url, **settings) as gateway:
        with gateway.client(gateway.make_key("1")) as any_client:
            quote = any_client.post("/v2/bg-replace", json=body(strength=0.05, dry_run=True)).json()
        reservation = Decimal(quote["estimate"]["reserved_credits"])
        key = gateway.make_key(str(reservation * COVERED))
        with gateway.client(key, limits=httpx.Limits(max_connections=40)) as client:
            os.killpg(own_triton.pid, signal.SIGSTOP)
            try:
                with ThreadPoolExecutor(40) as pool:
                    answers = list(pool.map(lambda seed: submit(client, seed), range(SUBMITS)))
            finally:
                os.killpg(own_triton.pid, signal.SIGCONT)
            statuses = Counter(answer.status_code for answer in answers)
            assert statuses == {200: COVERED, 406: SUBMITS - COVERED}
            accepted = [a.json()["request_id"] for a in answers if a.status_code == 200]
            ends = [wait_for_end(client, request_id) for request_id in accepted]
            assert {end["status"] for end in ends} == {"COMPLETED"}
        with gateway.database() as database:
            _check_ledger(database, reservation * COVERED, ends)


def _check_ledger(database: Database, granted: Decimal, ends: list[Mapping[str, Any]]) -> None:
    """No reservation is open, and the sums are exact as decimals."""
    with database.reading() as connection:
        assert ledger.open_reservations(connection) == []
        entries = ledger.entries(connection, 2)
        balance = ledger.balance(connection, 2)
    assert entries[0].amount == granted
    kinds = Counter(entry.kind for entry in entries)
    assert kinds == {"grant": 1, "reserve": COVERED, "release": COVERED, "settle": COVERED}
    assert sum(entry.amount for entry in entries) == balance
    bills = [-entry.amount for entry in entries if entry.kind == "settle"]
    assert all(isinstance(bill, Decimal) and bill > 0 for bill in bills)
    consumed = [Decimal(str(end["credits_consumed"])) for end in ends]
    assert sorted(consumed) == sorted(bills)
    assert granted - sum(bills) == balance
