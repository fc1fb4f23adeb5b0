"""Gateways killed with kill -9, or stopped, under load: what was accepted ends once, billed once."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL

from backdrop_server.gateway.jobs import Job
from backdrop_server.triton.launcher import TritonServer
from tests.gateway.books import all_jobs, check_books
from tests.gateway.customers import Customers, request
from tests.gateway.histories import Deaths, check_history, read_histories
from tests.gateway.postgres import make_database
from tests.gateway.servers import (
    GatewayProcess,
    body,
    gateway_process,
    held,
    wait_for_end,
    wait_until,
)
from tests.gateway.test_v2 import board_of
from tests.pictures import decode, psnr

pytestmark = pytest.mark.triton

JOBS = 100
KILLS = 10
PER_KILL = JOBS // KILLS
LONGEST_LIFE = 1.5
"""Seconds for which a gateway lives at most between being let jobs and being killed."""
LAPSE = 3.0
UNDISTURBED = (0, 41, 97)
"""Seeds whose pictures are made once more with nobody killed."""
STOPPED_WITHIN = 60.0


@contextlib.contextmanager
def gateways(
    folder: Path, server: TritonServer, count: int, database: str = ""
) -> Iterator[list[GatewayProcess]]:
    """Running gateways on one database and one store."""
    with contextlib.ExitStack() as stack:
        shared = {"database": database, "store": str(folder / "pictures"), "lapse": LAPSE}
        folders = [folder / f"gateway{k}" for k in range(count)]
        yield [
            stack.enter_context(gateway_process(own, server.http_url, **shared)) for own in folders
        ]


def kill_again_and_again(running: list[GatewayProcess], customers: Customers, seed: int) -> Deaths:
    """Kill the gateways in turns at random moments, each time with jobs at work; start them again."""
    moments = random.Random(seed)
    deaths = Deaths()
    for k in range(KILLS):
        victim = running[k % len(running)]
        customers.let(PER_KILL)
        time.sleep(moments.uniform(0, LONGEST_LIFE))
        deaths.kill(victim)
        victim.start()
    return deaths


def wait_for_all(client: httpx.Client, job_ids: list[str]) -> None:
    assert len(set(job_ids)) == JOBS
    ends = [wait_for_end(client, job_id) for job_id in job_ids]
    assert [end["status"] for end in ends] == ["COMPLETED"] * JOBS


def check_jobs(running: list[GatewayProcess], deaths: Deaths) -> list[Job]:
    """Nothing lost, nothing billed twice, nothing worked on twice at once or after its end."""
    found = check_books(running[0])
    assert len(found) == JOBS
    histories = read_histories(running)
    for job in found:
        check_history(histories[job.id], deaths)
        assert job.billed is not None
        assert 0 < job.billed <= job.reserved
        assert 1 <= job.attempt <= KILLS + 1
    assert len(deaths.killed_at) == KILLS
    assert max(job.attempt for job in found) > 1, "no kill hit a job at work"
    return found


def check_pictures(client: httpx.Client, job_ids: list[str]) -> None:
    for seed in UNDISTURBED:
        again = client.post("/v2/bg-replace", json=request(seed)).json()["request_id"]
        calm = wait_for_end(client, again)
        disturbed = wait_for_end(client, job_ids[seed])
        first, second = (
            decode(client.get(result["output"][0]).content) for result in (disturbed, calm)
        )
        # Batch mates move a float's last bits, which may round a pixel to its neighbour.
        assert psnr(first, second) > 60
        assert disturbed["seeds"] == calm["seeds"] == [seed]


@pytest.mark.parametrize("database, count", [("sqlite", 1), ("postgresql", 2)])
def test_kills_under_load_lose_nothing_and_bill_nothing_twice(
    server: TritonServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    database: str,
    count: int,
) -> None:
    url = ""
    if database == "postgresql":
        cluster: URL = request.getfixturevalue("postgres_url")
        url = make_database(cluster)
    with gateways(tmp_path, server, count, url) as running:
        key = running[0].make_key()
        customers = Customers([gateway.url for gateway in running], key, JOBS)
        deaths = kill_again_and_again(running, customers, seed=count)
        job_ids = customers.job_ids()
        with running[0].client(key) as client:
            wait_for_all(client, job_ids)
            check_jobs(running, deaths)
            check_pictures(client, job_ids)


def test_requests_that_were_waited_for_end_with_their_gateway(
    server: TritonServer, tmp_path: Path
) -> None:
    count = 6  # together they keep Triton busy for longer than a gateway takes to start
    with (
        gateways(tmp_path, server, 1) as (gateway,),
        ThreadPoolExecutor(count) as threads,
        gateway.client(gateway.make_key()) as client,
    ):
        slow = body(num_inference_steps=100, scheduler="DPM2 Karras", samples=4)
        answers = [threads.submit(client.post, "/v1/bg-replace", json=slow) for _ in range(count)]
        wait_until(lambda: [job.status for job in all_jobs(gateway)] == ["PROCESSING"] * count)
        gateway.kill()
        assert all(isinstance(answer.exception(), httpx.TransportError) for answer in answers)
        gateway.start()
        jobs = check_books(gateway)
        assert len(jobs) == count
        for job in jobs:
            assert (job.status, job.billed, job.error_status) == ("FAILED", Decimal(0), 503)
            assert job.error == "the gateway that held the request stopped; send it again"
        # Nobody waits for them any more: they hold the engine up no longer.
        wait_until(lambda: all(board_of(server, f"{job.id}.1")["cancelled"] for job in jobs))
        assert client.post("/v1/bg-replace", json=body()).status_code == 200


def submit(gateway: GatewayProcess, client: httpx.Client, count: int) -> list[str]:
    """Submit jobs, wait until some are at work; their ids."""
    answers = [client.post("/v2/bg-replace", json=body()) for _ in range(count)]
    wait_until(lambda: "PROCESSING" in {job.status for job in all_jobs(gateway)})
    return [answer.json()["request_id"] for answer in answers]


def test_a_stopped_gateway_ends_its_jobs_first(server: TritonServer, tmp_path: Path) -> None:
    with gateways(tmp_path, server, 1) as (gateway,):
        with gateway.client(gateway.make_key()) as client:
            submit(gateway, client, 20)
        assert stop(gateway) < STOPPED_WITHIN
        assert {job.status for job in check_books(gateway)} == {"COMPLETED"}


def test_what_a_stopped_gateway_could_not_end_goes_on_at_its_next_start(
    server: TritonServer, tmp_path: Path
) -> None:
    with (
        gateways(tmp_path, server, 1) as (gateway,),
        gateway.client(gateway.make_key()) as client,
    ):
        with held(server):
            ids = submit(gateway, client, 20)
            assert stop(gateway) < STOPPED_WITHIN
            assert {job.is_open for job in all_jobs(gateway)} == {True}
        gateway.start()
        ends = [wait_for_end(client, job_id) for job_id in ids]
        assert {end["status"] for end in ends} == {"COMPLETED"}
        assert {job.attempt for job in check_books(gateway)} == {1, 2}


def stop(gateway: GatewayProcess) -> float:
    """Stop a gateway, which succeeds; the seconds that it took."""
    begun_at = time.monotonic()
    assert gateway.stop() == 0
    return time.monotonic() - begun_at
