"""Two Tritons behind one gateway: jobs go to the freest, and away from one that dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backdrop_server.triton.launcher import TritonServer
from tests.conftest import launch
from tests.gateway.books import all_jobs, check_books
from tests.gateway.servers import (
    GatewayProcess,
    body,
    gateway_process,
    wait_for_end,
    wait_until,
)

pytestmark = pytest.mark.triton

JOBS = 8
SLOW = body(num_inference_steps=100, scheduler="DPM2 Karras", samples=2)
"""The first is at work still when the last has been sent."""


@pytest.fixture(scope="module")
def other(repository: Path) -> Iterator[TritonServer]:
    """A second server, which the last test kills."""
    with launch(repository) as running:
        yield running


@pytest.fixture
def gateway(server: TritonServer, other: TritonServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path, f"{server.http_url},{other.http_url}") as running:
        with running.client() as client:
            wait_until(lambda: client.get("/readyz").json().get("tritons") == 2)
        yield running


def submit(client: httpx.Client, count: int) -> list[str]:
    answers = [client.post("/v2/bg-replace", json=SLOW) for _ in range(count)]
    return [answer.json()["request_id"] for answer in answers]


def at_work(gateway: GatewayProcess) -> Counter[str | None]:
    """How many jobs each Triton was given and has not done."""
    return Counter(job.triton for job in all_jobs(gateway) if job.status == "PROCESSING")


def test_each_job_goes_to_the_triton_with_the_fewest_in_flight(
    gateway: GatewayProcess, client: httpx.Client, server: TritonServer, other: TritonServer
) -> None:
    ids = []
    for k in range(1, JOBS + 1):
        ids += submit(client, 1)
        wait_until(lambda: at_work(gateway).total() == k, 20)  # noqa: B023 (waited for here)
        counts = [at_work(gateway)[url] for url in (server.http_url, other.http_url)]
        assert max(counts) - min(counts) <= 1, counts
    assert {wait_for_end(client, job_id)["status"] for job_id in ids} == {"COMPLETED"}
    assert {job.attempt for job in check_books(gateway)} == {1}


def test_jobs_of_a_triton_that_dies_are_done_by_the_other(
    gateway: GatewayProcess, client: httpx.Client, server: TritonServer, other: TritonServer
) -> None:
    ids = submit(client, JOBS)
    wait_until(lambda: at_work(gateway).total() == JOBS, 20)
    lost = {job.id for job in all_jobs(gateway) if job.triton == other.http_url}
    assert len(lost) == JOBS // 2
    os.killpg(other.pid, signal.SIGKILL)
    assert {wait_for_end(client, job_id)["status"] for job_id in ids} == {"COMPLETED"}
    found = check_books(gateway)
    assert {job.triton for job in found} == {server.http_url}
    assert {job.id: job.attempt for job in found} == {
        job.id: 2 if job.id in lost else 1 for job in found
    }
    assert client.get("/readyz").json() == {"ready": True, "tritons": 1}
