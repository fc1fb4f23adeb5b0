"""An hour of mixed requests to a gateway and to the Triton behind it: memory stays flat."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from backdrop_server.triton.launcher import TritonServer
from tests.conftest import launch
from tests.gateway.servers import GatewayProcess, body, gateway_process
from tests.triton.flight import Flight
from tests.triton.test_memory import grown, resident, run

pytestmark = [pytest.mark.triton, pytest.mark.soak]

WARM_UP = 300.0
SECONDS = 3600.0
TELL_EVERY = 300.0
FLAT = 1.02
PER_ROUND = 12
"""Requests by REST, half of them refused, beside each round of `run` to Triton itself."""


def by_rest(client: httpx.Client) -> None:
    for number in range(PER_ROUND):
        steps = 20 if number % 2 else 7
        answer = client.post("/v1/bg-replace", json=body(base64=False, num_inference_steps=steps))
        assert answer.status_code == (200 if number % 2 else 400), answer.text


def sizes(server: TritonServer, gateway: GatewayProcess) -> dict[str, int]:
    assert gateway.process is not None
    own = psutil.Process(gateway.process.pid).memory_info().rss
    return resident(server) | {"gateway": own}


@pytest.fixture
def both(repository: Path, tmp_path: Path) -> Iterator[tuple[TritonServer, GatewayProcess]]:
    with launch(repository) as server, gateway_process(tmp_path, server.http_url) as gateway:
        yield server, gateway


@pytest.mark.timeout(7200)
def test_memory_is_flat_over_an_hour(both: tuple[TritonServer, GatewayProcess]) -> None:
    server, gateway = both
    key = gateway.make_key("1000000")
    with Flight(server) as flight, gateway.client(key) as client:

        def work(seconds: float) -> int:
            began = told = time.monotonic()
            rounds = 0
            while time.monotonic() < began + seconds:
                run(flight, 1)
                by_rest(client)
                rounds += 1
                if time.monotonic() > told + TELL_EVERY:
                    told = time.monotonic()
                    minutes = (told - began) / 60
                    print(f"{minutes:.0f} min, {rounds} rounds: {mebibytes(server, gateway)}")
            return rounds

        work(WARM_UP)
        before = sizes(server, gateway)
        print(f"before: {mebibytes(server, gateway)}")
        rounds = work(SECONDS)
        print(f"after {rounds} rounds: {mebibytes(server, gateway)}; load {os.getloadavg()}")
    assert not grown(before, sizes(server, gateway), FLAT)


def mebibytes(server: TritonServer, gateway: GatewayProcess) -> dict[str, float]:
    return {name: round(size / 2**20, 1) for name, size in sizes(server, gateway).items()}
