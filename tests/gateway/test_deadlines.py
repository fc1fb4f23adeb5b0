"""The ``timeout`` of a request: in Triton, in the queue, over the death of its gateway."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from backdrop_server.triton.launcher import TritonServer
from tests.gateway.books import check_books, find_job
from tests.gateway.servers import GatewayProcess, body, gateway_process, held, wait_for_end
from tests.gateway.test_v2 import board_of

pytestmark = pytest.mark.triton

SENTENCE = "the request was cancelled: its timeout of {} s has passed"
LONG = {"num_inference_steps": 100, "scheduler": "DPM2 Karras", "samples": 4}


def submit(client: httpx.Client, **fields: object) -> str:
    answer = client.post("/v2/bg-replace", json=body(**fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def test_a_job_at_work_is_cancelled_and_pays_for_its_steps(
    gateway: GatewayProcess, client: httpx.Client, server: TritonServer
) -> None:
    request_id = submit(client, timeout=1, **LONG)
    end = wait_for_end(client, request_id)
    assert (end["status"], end["error"]) == ("FAILED", SENTENCE.format("1"))
    job = find_job(gateway, request_id)
    assert job.error_status == 400
    assert job.billed is not None
    assert 0 < job.billed < job.reserved
    assert board_of(server, f"{request_id}.{job.attempt}")["cancelled"]


def test_somebody_who_waits_is_told(client: httpx.Client) -> None:
    begun_at = time.monotonic()
    answer = client.post("/v1/bg-replace", json=body(timeout=1, **LONG))
    assert (answer.status_code, answer.json()) == (400, {"error": SENTENCE.format("1")})
    assert 1 <= time.monotonic() - begun_at < 20


def test_a_job_that_waits_is_cancelled_and_free(server: TritonServer, tmp_path: Path) -> None:
    with gateway_process(tmp_path, server.http_url, max_in_flight=1) as gateway:
        with gateway.client(gateway.make_key()) as client, held(server):
            first, second = submit(client), submit(client, timeout=1)
            end = wait_for_end(client, second, 30)
            assert (end["status"], end["error"]) == ("FAILED", SENTENCE.format("1"))
            assert find_job(gateway, second).billed == Decimal(0)
        with gateway.client(gateway.make_key()) as other:
            assert other.get(f"/v2/requests/{first}").status_code == 404
        assert gateway.stop() == 0
        check_books(gateway)


def test_the_clock_goes_on_while_the_gateway_is_dead(server: TritonServer, tmp_path: Path) -> None:
    with gateway_process(tmp_path, server.http_url) as gateway:
        with gateway.client(gateway.make_key()) as client:
            with held(server):
                request_id = submit(client, timeout=2)
                gateway.kill()
                time.sleep(2)
                gateway.start(until_ready=False)
            gateway.wait_until_ready()
            end = wait_for_end(client, request_id)
            assert (end["status"], end["error"]) == ("FAILED", SENTENCE.format("2"))
        check_books(gateway)
