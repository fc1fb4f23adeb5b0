"""`backdrop serve` under faults: each process of it killed or stopped; readiness tells the truth."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.gateway.served import Served, serving
from tests.gateway.servers import body, in_base64, wait_until
from tests.pictures import decode, png, product, scene

pytestmark = pytest.mark.triton

UNREADY_WITHIN = 2.0
MENDED_WITHIN = 60.0


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with serving(repository) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("denoise", signal.SIGKILL),
        ("cutout", signal.SIGSTOP),
        ("triton", signal.SIGSTOP),
        ("gateway", signal.SIGKILL),
        ("gateway", signal.SIGSTOP),
    ],
)
def test_a_fault_is_told_in_two_seconds_and_mended(
    served: Served, name: str, number: signal.Signals
) -> None:
    wait_until(served.is_ready, 60)
    fields = {
        "image": in_base64(png(product())), "ref_image": in_base64(png(scene())), "seed": 5,
        "output_format": "png", "base64": False,
    }  # fmt: skip
    with httpx.Client(base_url=served.url, headers={"x-api-key": served.key}) as client:
        calm = client.post("/v1/bg-replace", json=body(**fields), timeout=120).raise_for_status()
        hit = client.post(
            "/v2/bg-replace", json=body(**fields, scheduler="DPM2 Karras"), timeout=60
        ).raise_for_status()
        victim = served.processes()[name]
        victim.send_signal(number)
        wait_until(lambda: not served.is_ready(), UNREADY_WITHIN)
        wait_until(served.is_ready, MENDED_WITHIN)
        result_url = f"/v2/requests/{hit.json()['request_id']}"
        wait_until(lambda: client.get(result_url).json()["status"] == "COMPLETED", 60)
        again = client.post("/v1/bg-replace", json=body(**fields), timeout=120).raise_for_status()
    assert (decode(again.content) == decode(calm.content)).all()
    assert not psutil.pid_exists(victim.pid) or victim.status() == psutil.STATUS_ZOMBIE
    assert sum("starting it again" in line for line in served.lines) >= 1
