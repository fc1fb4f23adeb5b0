"""Kill -9 of gateways under load: every accepted job ends once and is billed once."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, select

from backdrop_server.gateway import ledger
from backdrop_server.gateway.presence import GATEWAY_IS_GONE
from backdrop_server.gateway.tables import jobs
from backdrop_server.triton.launcher import TritonServer
from tests.gateway.postgres import make_database
from tests.gateway.servers import GatewayProcess, body, wait_for_end

pytestmark = pytest.mark.triton

JOBS, KILLS = 100, 10
SETTINGS: dict[str, object] = {"max_waiting": JOBS, "heartbeat": 0.3, "lapse": 2.0}


@pytest.fixture
def gateways(
    request: pytest.FixtureRequest, server: TritonServer, tmp_path: Path
) -> Iterator[list[GatewayProcess]]:
    """One gateway on SQLite, or two on one PostgreSQL database and one store."""
    count, settings = 1, dict(SETTINGS)
    if request.param == "postgresql":
        url: URL = request.getfixturevalue("postgres_url")
        count, settings["database"] = 2, make_database(url)
    made = [GatewayProcess(tmp_path, server.http_url, **settings) for _ in range(count)]
    try:
        for gateway in made:
            gateway.start()
        yield made
    finally:
        for gateway in made:
            if gateway.process is not None and gateway.process.poll() is None:
                gateway.stop()


def request_of(number: int) -> dict[str, Any]:
    return body(seed=number, strength=0.5, scheduler="Euler")


def submit_until_accepted(gateways: Sequence[GatewayProcess], key: str, number: int) -> str:
    """As a careful client does: the same idempotency key until there is an answer."""
    headers = {"x-api-key": key, "idempotency-key": f"job-{number}"}
    deadline = time.monotonic() + 120
    for attempt in range(10_000):
        gateway = gateways[(number + attempt) % len(gateways)]
        with contextlib.suppress(httpx.TransportError):
            url = f"{gateway.url}/v2/bg-replace"
            answer = httpx.post(url, json=request_of(number), headers=headers, timeout=10)
            if answer.status_code == 200:
                return str(answer.json()["request_id"])
            assert answer.status_code in (500, 503), answer.text
        assert time.monotonic() < deadline, f"job {number} was never accepted"
        time.sleep(0.2)
    raise AssertionError


def kill_again_and_again(gateways: Sequence[GatewayProcess], draw: random.Random) -> None:
    """One after the other, at moments that a seed drew; each starts again."""
    for number in range(KILLS):
        time.sleep(draw.uniform(0.1, 1.5))
        gateway = gateways[number % len(gateways)]
        gateway.kill()
        gateway.start()


@pytest.mark.parametrize("gateways", ["sqlite", "postgresql"], indirect=True)
def test_no_job_is_lost_or_billed_twice(gateways: list[GatewayProcess]) -> None:
    key = gateways[0].make_key("1000")
    killer = threading.Thread(target=kill_again_and_again, args=(gateways, random.Random(5)))
    with ThreadPoolExecutor(8) as pool:
        killer.start()
        accepted = list(
            pool.map(lambda number: submit_until_accepted(gateways, key, number), range(JOBS))
        )
        killer.join()
    assert len(set(accepted)) == JOBS
    with gateways[-1].client(key) as client:
        ends = [wait_for_end(client, request_id) for request_id in accepted]
        assert Counter(end["status"] for end in ends) == {"COMPLETED": JOBS}
        _check_pictures(client, ends)
    _check_database(gateways[0], accepted)
    _check_logs(gateways, accepted)


def _check_pictures(client: httpx.Client, ends: Sequence[Any]) -> None:
    """A job that was begun again came out as one that was not."""
    for number in (0, JOBS // 2, JOBS - 1):
        assert ends[number]["seeds"] == [number]
        undisturbed = client.post("/v1/bg-replace", json=request_of(number) | {"base64": False})
        assert httpx.get(ends[number]["output"][0]).content == undisturbed.content


def _check_database(gateway: GatewayProcess, accepted: Sequence[str]) -> None:
    with gateway.database() as database, database.reading() as connection:
        assert ledger.open_reservations(connection) == []
        entries = ledger.entries(connection, 1)
        balance = ledger.balance(connection, 1)
        found = connection.execute(select(jobs).where(jobs.c.kind == "queue")).all()
    assert {job.id for job in found} == set(accepted)
    settled = Counter(entry.job_id for entry in entries if entry.kind == "settle")
    assert all(settled[request_id] == 1 for request_id in accepted)
    assert sum((entry.amount for entry in entries), Decimal(0)) == balance
    for job in found:
        assert 0 < job.billed <= job.reserved
        (settle,) = (e for e in entries if e.job_id == job.id and e.kind == "settle")
        assert -settle.amount == job.billed


def _check_logs(gateways: Sequence[GatewayProcess], accepted: Sequence[str]) -> None:
    """Attempts of a job follow each other: no number is begun twice, over all gateways.

    A gateway that is killed between an attempt's row and its line leaves a number out.
    """
    attempts: dict[str, list[int]] = {request_id: [] for request_id in accepted}
    for gateway in gateways:
        for line in gateway.log_file.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if entry["message"] == "attempt begun" and entry["job"] in attempts:
                    attempts[entry["job"]].append(entry["attempt"])
    for numbers in attempts.values():
        assert len(set(numbers)) == len(numbers) > 0
    assert any(len(numbers) > 1 for numbers in attempts.values())  # some were under the axe


@pytest.mark.parametrize("gateways", ["sqlite"], indirect=True)
def test_a_waiting_callers_job_ends_failed_and_free(gateways: list[GatewayProcess]) -> None:
    (gateway,) = gateways
    key = gateway.make_key("1")
    with gateway.client(key) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            client.post, "/v1/bg-replace", json=body(num_inference_steps=100, scheduler="Heun")
        )
        time.sleep(1.0)
        gateway.kill()
        assert isinstance(waiting.exception(), httpx.TransportError)
    gateway.start()
    with gateway.database() as database, database.reading() as connection:
        (job,) = connection.execute(select(jobs)).all()
        assert (job.status, job.error) == ("FAILED", GATEWAY_IS_GONE)
        assert ledger.open_reservations(connection) == []
        assert ledger.balance(connection, job.key_id) == 1
