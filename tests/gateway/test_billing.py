"""Bills through the gateway: they add up to the engine's time, and a quote comes close to them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import httpx
import pytest

from backdrop_server.contract import SCHEDULERS
from backdrop_server.costs import Costs
from backdrop_server.gateway.money import price
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.gateway.books import check_books, expected_bill, find_job
from tests.gateway.servers import (
    GatewayProcess,
    body,
    gateway_process,
    in_base64,
    wait_for_end,
)
from tests.triton.flight import Flight

pytestmark = pytest.mark.triton

BUSY = "backdrop_engine_busy_seconds_total"
TOGETHER = 20
LEARNED = 5
PHOTOS = ((200, 200), (300, 100), (100, 300), (250, 200))
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "second order": {"scheduler": "DPM2 Karras", "num_inference_steps": 25},
    "without guidance": {"guidance_scale": 1, "num_inference_steps": 60},
    "several samples": {"samples": 3},
    "wide": {"size": (300, 100), "num_inference_steps": 40},
    "half": {"strength": 0.5, "num_inference_steps": 50},
}


def request(size: tuple[int, int] = (300, 200), **fields: Any) -> dict[str, Any]:
    return body(image=in_base64(pictures.png(pictures.product(*size))), **fields)


MIXED = [
    request(
        PHOTOS[n % 4],
        scheduler=SCHEDULERS[n % 12],
        num_inference_steps=20 + n % 11,
        samples=1 + n % 2,
        guidance_scale=(1.0, 7.5)[n // 2 % 2],
        seed=n,
    )
    for n in range(TOGETHER)
]


@pytest.fixture(scope="module")
def gateway(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway that lets all of ``MIXED`` into Triton at once, and whose bills meet no bound.

    A quote goes by rows. A single row of the tiny bundle costs over twice its part of a pair, and
    such a bill would end at the reservation.
    """
    folder = tmp_path_factory.mktemp("billing")
    settings = {"max_in_flight": TOGETHER, "reservation_headroom": 10}
    with gateway_process(folder, server.http_url, **settings) as running:
        yield running


@pytest.fixture
def flight(server: TritonServer) -> Iterator[Flight]:
    with Flight(server) as opened:
        yield opened


@pytest.fixture
def costs(flight: Flight) -> Costs:
    """What `control` says that the engines cost."""
    facts = flight.control("facts")
    return Costs(**{name: value for name, value in facts.items() if name != "preview"})


def submit(client: httpx.Client, fields: Mapping[str, Any]) -> str:
    answer = client.post("/v2/bg-replace", json=fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def run(client: httpx.Client, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return wait_for_end(client, submit(client, fields))


def quote(client: httpx.Client, fields: Mapping[str, Any]) -> Decimal:
    answer = client.post("/v2/bg-replace", json={**fields, "dry_run": True})
    return Decimal(answer.json()["estimate"]["credits"])


def encoding_seconds(costs: Costs, end: Mapping[str, Any]) -> float:
    width, height = end["report"]["working_size"]
    return costs.encoding_seconds(width, height, samples=len(end["seeds"]))


def test_bills_of_requests_in_flight_together_add_up_to_the_engines_time(
    gateway: GatewayProcess, client: httpx.Client, flight: Flight, costs: Costs
) -> None:
    before = flight.metric(BUSY)
    ids = [submit(client, fields) for fields in MIXED]
    ends = [wait_for_end(client, job_id) for job_id in ids]
    busy = flight.metric(BUSY) - before
    reports = [end["report"] for end in ends]
    constant = sum(encoding_seconds(costs, end) for end in ends)
    assert max(report["mean_rows_together"] for report in reports) > 4
    billed = [find_job(gateway, job_id) for job_id in ids]
    assert sum(job.seconds or 0 for job in billed) == pytest.approx(busy + constant, rel=0.02)
    for job, end in zip(billed, ends, strict=True):
        assert job.seconds is not None
        assert job.billed == price(job.seconds, gateway.settings.price_per_second)
        assert job.billed == Decimal(end["credits_consumed"]) <= job.reserved
    check_books(gateway)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quote_is_within_a_quarter_of_the_bill(client: httpx.Client, kind: str) -> None:
    """The median of fifteen: one request by itself may meet another program on this machine.

    Five like them come before: a quote is learned from as many, and those in flight together cost
    less each. A change in the machine's speed puts three quotes off, until most of what they are
    learned from is of the new one: of five that would be most, of fifteen it is not.
    """
    fields = request(**KINDS[kind])
    for _ in range(LEARNED):
        assert run(client, fields)["status"] == "COMPLETED"
    ratios = [
        float(quote(client, fields) / Decimal(run(client, fields)["credits_consumed"]))
        for _ in range(3 * LEARNED)
    ]
    assert 0.75 <= statistics.median(ratios) <= 1.25, ratios


def test_a_cancelled_job_pays_for_the_steps_that_it_had(
    gateway: GatewayProcess, client: httpx.Client, flight: Flight
) -> None:
    slow = request(scheduler="DPM2 Karras", num_inference_steps=100)
    job_id = submit(client, slow)
    flight.wait_for(f"{job_id}.1", lambda status: status["step"] >= 5)
    cancelled = client.delete(f"/v2/requests/{job_id}").json()
    assert cancelled["status"] == "FAILED"
    had = flight.control("status", f"{job_id}.1")
    assert 5 <= had["step"] < had["total"]
    job = find_job(gateway, job_id)
    assert job.seconds == had["engine_seconds"] > 0
    assert job.billed == expected_bill(gateway, job)
    whole = run(client, slow)
    assert 0 < job.billed < Decimal(whole["credits_consumed"])
    check_books(gateway)


def test_a_failed_job_pays_nothing(gateway: GatewayProcess, client: httpx.Client) -> None:
    photo = pictures.png(pictures.product())
    damaged = bytearray(photo)
    damaged[len(photo) // 2] ^= 0xFF  # its header is in order: only Triton finds out
    job_id = submit(client, body(image=in_base64(bytes(damaged))))
    end = wait_for_end(client, job_id)
    assert (end["status"], end["credits_consumed"]) == ("FAILED", "0")
    job = find_job(gateway, job_id)
    assert (job.attempt, job.billed, job.seconds) == (1, Decimal(0), 0)
    check_books(gateway)
