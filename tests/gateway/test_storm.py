"""A storm of faults over `backdrop serve` while customers submit: no picture is lost or billed twice.

`make storm` runs the whole of it, five minutes; the plain run a short one.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from backdrop_server.settings import load_settings
from tests import pictures
from tests.gateway.books import check_books
from tests.gateway.customers import Customers, request
from tests.gateway.served import Served, serving
from tests.gateway.servers import GatewayProcess, wait_for_end, wait_until

pytestmark = pytest.mark.triton

UNREADY_WITHIN = 2.0
READY_WITHIN = 15.0
EQUAL_DB = 60.0
"""Batch mates move a float's last bits, which may round a pixel to its neighbour."""
SHM = Path("/dev/shm")  # noqa: S108


@dataclasses.dataclass(frozen=True)
class Storm:
    """``jobs`` spread over ``seconds``; a fault ``every`` so many, or as soon as all is mended."""

    jobs: int
    seconds: float
    every: float
    ready_within: float
    seed: int = 1

    @property
    def faults(self) -> int:
        """At most: those that the time has room for."""
        return int(self.seconds / self.every)


SHORT = Storm(jobs=24, seconds=12, every=4, ready_within=60)
WHOLE = Storm(jobs=300, seconds=300, every=10, ready_within=READY_WITHIN)


@dataclasses.dataclass(frozen=True)
class Fault:
    """What was done to whom, and the seconds until it was told and until it was mended."""

    name: str
    number: signal.Signals
    unready_after: float
    ready_after: float


def seconds_until(condition: Callable[[], bool], within: float, what: str) -> float:
    begun_at = time.monotonic()
    while not condition():
        waited = time.monotonic() - begun_at
        assert waited < within, f"{what} took more than {within} s"
        time.sleep(0.02)
    return time.monotonic() - begun_at


def strike(served: Served, draw: random.Random, within: float) -> Fault:
    """Kill or stop one of the processes; wait until that is told and mended."""
    found = served.processes()
    kinds = {"triton", "gateway", "stub"}
    kind = draw.choice(sorted(kinds))
    stubs = sorted(set(found) - kinds)
    name = draw.choice(stubs) if kind == "stub" else kind
    number = draw.choice([signal.SIGKILL, signal.SIGSTOP])
    found[name].send_signal(number)
    what = f"after {number.name} to {name}, /readyz"
    unready = seconds_until(lambda: not served.is_ready(), UNREADY_WITHIN, f"{what} to be false")
    ready = seconds_until(served.is_ready, within, f"{what} to be true again")
    fault = Fault(name, number, unready, unready + ready)
    print(
        f"{number.name} {name}: told after {unready:.2f} s, mended after {fault.ready_after:.1f} s"
    )
    return fault


def rage(served: Served, storm: Storm) -> list[Fault]:
    """Fault after fault until the time is over."""
    draw, over_at = random.Random(storm.seed), time.monotonic() + storm.seconds
    faults: list[Fault] = []
    while len(faults) < storm.faults and time.monotonic() < over_at:
        next_at = time.monotonic() + storm.every
        faults.append(strike(served, draw, storm.ready_within))
        time.sleep(max(0.0, next_at - time.monotonic()))
    return faults


def submitted(served: Served, storm: Storm) -> Customers:
    """Customers that get to submit evenly over the storm's time."""
    customers = Customers([served.url], served.key, storm.jobs)

    def let() -> None:
        for _ in range(storm.jobs):
            customers.let(1)
            time.sleep(storm.seconds / storm.jobs)

    threading.Thread(target=let, daemon=True).start()
    return customers


def calm_pictures(client: httpx.Client, count: int) -> list[pictures.Pixels]:
    """The pictures of the same jobs with nobody disturbed."""
    ids = [
        client.post("/v2/bg-replace", json=request(n)).json()["request_id"] for n in range(count)
    ]
    return [picture_of(client, job_id, n) for n, job_id in enumerate(ids)]


def picture_of(client: httpx.Client, job_id: str, seed: int) -> pictures.Pixels:
    end = wait_for_end(client, job_id, 600)
    assert end["status"] == "COMPLETED", end
    assert end["seeds"] == [seed]
    return pictures.decode(client.get(end["output"][0]).content)


def ours(served: Served) -> set[int]:
    """Process ids of everything that it has started."""
    return {child.pid for child in psutil.Process(served.process.pid).children(recursive=True)}


def weather(repository: Path, storm: Storm) -> list[Fault]:
    """The whole test; the faults that there were."""
    memory = set(SHM.iterdir())
    with serving(repository, max_waiting=str(storm.jobs), keep_results="3600") as served:
        with httpx.Client(
            base_url=served.url, headers={"x-api-key": served.key}, timeout=120
        ) as client:
            twins = calm_pictures(client, storm.jobs)
            customers = submitted(served, storm)
            try:
                faults = rage(served, storm)
                ids = customers.job_ids()
            except BaseException:
                customers.give_up()
                raise
            assert len(set(ids)) == storm.jobs
            for seed, (job_id, twin) in enumerate(zip(ids, twins, strict=True)):
                picture = picture_of(client, job_id, seed)
                assert pictures.psnr(picture, twin) > EQUAL_DB, seed
        check_all_books(served, 2 * storm.jobs)
        left = ours(served)
    wait_until(lambda: not any(map(psutil.pid_exists, left)), 20)
    assert set(SHM.iterdir()) <= memory
    return faults


def check_all_books(served: Served, jobs: int) -> None:
    """No reservation is open, and each job was billed once."""
    gateway = GatewayProcess(served.data, "127.0.0.1:1")
    assert gateway.settings.price_per_second == load_settings({}).price_per_second
    found = check_books(gateway)
    assert len(found) == jobs
    assert {job.status for job in found} == {"COMPLETED"}


def test_a_short_storm(repository: Path) -> None:
    assert len(weather(repository, SHORT)) >= 2


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_storm_of_five_minutes(repository: Path) -> None:
    assert len(weather(repository, WHOLE)) > 12
