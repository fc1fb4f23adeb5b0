"""Credits under a rush: as many requests are accepted as the balance covers, and not one more."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from backdrop_server.gateway import keys, ledger
from backdrop_server.triton.launcher import TritonServer
from tests.gateway.books import check_books
from tests.gateway.servers import GatewayProcess, body, gateway_process, held, wait_for_end

pytestmark = pytest.mark.triton

RUSH = 200
COVERED = 100
REQUEST = body(strength=0.1)


def reservation(gateway: GatewayProcess) -> Decimal:
    """What the gateway reserves for ``REQUEST``."""
    with gateway.client(gateway.make_key("1")) as client:
        quote = client.post("/v2/bg-replace", json=REQUEST | {"dry_run": True}).json()
    return Decimal(quote["estimate"]["reserved_credits"])


def submit_at_once(client: httpx.Client, count: int) -> list[httpx.Response]:
    """Send ``REQUEST`` from ``count`` threads that wait for each other first."""
    together = threading.Barrier(count)

    def submit(_: int) -> httpx.Response:
        together.wait()
        return client.post("/v2/bg-replace", json=REQUEST)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(submit, range(count)))


def test_exactly_the_requests_that_the_balance_covers_are_accepted(
    server: TritonServer, tmp_path: Path, database_url: str
) -> None:
    with gateway_process(tmp_path / "gateway", server.http_url, database=database_url) as gateway:
        price = reservation(gateway)
        key = gateway.make_key(str(COVERED * price))
        many = httpx.Limits(max_connections=RUSH)
        with gateway.client(key, limits=many) as client:
            with held(server):
                answers = submit_at_once(client, RUSH)
                reserved = reservations_of(gateway)
            accepted = [answer.json() for answer in answers if answer.status_code == 200]
            assert Counter(answer.status_code for answer in answers) == {
                200: COVERED,
                406: RUSH - COVERED,
            }
            assert reserved == ([price] * COVERED, Decimal(0))
            ends = [wait_for_end(client, job["request_id"]) for job in accepted]
        assert {end["status"] for end in ends} == {"COMPLETED"}
        found = check_books(gateway)
        assert len(found) == COVERED
        assert {job.reserved for job in found} == {price}
        spent = sum((job.billed or Decimal(0) for job in found), Decimal(0))
        assert reservations_of(gateway) == ([], COVERED * price - spent)


def reservations_of(gateway: GatewayProcess) -> tuple[list[Decimal], Decimal]:
    """Amounts of the open reservations, and the balance of the key that was made last."""
    with gateway.database() as database, database.reading() as connection:
        amounts = [found.amount for found in ledger.open_reservations(connection)]
        last = max(key.id for key, _ in keys.list_keys(connection))
        return amounts, ledger.balance(connection, last)
