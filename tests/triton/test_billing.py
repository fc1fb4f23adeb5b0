"""What a request is billed for: its share of the engine's time, whoever else is in the loop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from backdrop_client.triton import Replaced
from backdrop_server.contract import SCHEDULERS
from backdrop_server.costs import Costs
from backdrop_server.triton.launcher import TritonServer
from tests.triton.flight import Flight, fields_of

pytestmark = pytest.mark.triton

BUSY = "backdrop_engine_busy_seconds_total"
PHOTOS = ((200, 200), (300, 100), (100, 300), (250, 200))
MIXED = [
    fields_of(
        PHOTOS[n % 4],
        scheduler=SCHEDULERS[n % 12],
        num_inference_steps=20 + n % 11,
        samples=1 + n % 2,
        guidance_scale=(1.0, 7.5)[n // 2 % 2],
        seed=n,
    )
    for n in range(20)
]


@pytest.fixture(scope="module")
def flight(server: TritonServer) -> Iterator[Flight]:
    with Flight(server) as opened:
        yield opened


@pytest.fixture(scope="module")
def costs(repository: Path) -> Costs:
    return Costs.from_json((repository / "postprocess" / "1" / "costs.json").read_text())


def encoding_of(answer: Replaced, costs: Costs) -> float:
    width, height = answer.report["working_size"]
    return costs.encoding_seconds(width, height, len(answer.images))


def test_bills_of_requests_in_flight_together_add_up_to_the_engines_time(
    flight: Flight, costs: Costs
) -> None:
    before = flight.metric(BUSY)
    answers = flight.ask_all(MIXED)
    busy = flight.metric(BUSY) - before
    in_the_loop = [
        answer.report["seconds_billed"] - encoding_of(answer, costs) for answer in answers
    ]
    assert min(in_the_loop) > 0
    assert max(answer.report["mean_rows_together"] for answer in answers) > 4
    assert sum(in_the_loop) == pytest.approx(busy, rel=0.02)


@pytest.mark.parametrize("samples", [1, 3])
def test_encoders_and_decoder_are_billed_where_no_step_is_left(
    flight: Flight, costs: Costs, samples: int
) -> None:
    answer = flight.ask(fields_of((300, 100), strength=0.0, samples=samples))
    assert answer.report["engine_seconds"] == 0
    assert answer.report["edge_encoder_seconds"] == 0
    expected = encoding_of(answer, costs)
    assert answer.report["seconds_billed"] == pytest.approx(expected, abs=1e-6)


def test_a_cancelled_request_can_be_billed_for_the_steps_it_had(flight: Flight) -> None:
    before = flight.metric(BUSY)
    future = flight.send(fields_of(scheduler="DPM2 Karras", num_inference_steps=100), "leaving")
    running = flight.wait_for("leaving", lambda status: status["step"] >= 3)
    assert running["engine_seconds"] > 0
    flight.control("cancel", "leaving")
    with pytest.raises(InferenceServerException, match="cancelled"):
        future.result(timeout=120)
    ended = flight.control("status", "leaving")
    assert ended["stage"] == "ended"
    assert ended["engine_seconds"] >= running["engine_seconds"]
    assert ended["engine_seconds"] == pytest.approx(flight.metric(BUSY) - before, rel=0.02)


def test_the_board_ends_with_the_seconds_of_the_report(flight: Flight) -> None:
    report = flight.send(fields_of(samples=2), "billed").result().report
    status = flight.control("status", "billed")
    assert status["engine_seconds"] == pytest.approx(report["engine_seconds"], abs=1e-6)


def test_control_tells_the_costs(flight: Flight, costs: Costs, repository: Path) -> None:
    found = flight.control("facts")
    assert found.pop("preview") == b""
    assert found == dataclasses.asdict(costs)
    assert found == json.loads((repository / "manifest.json").read_text())["costs"]
    assert flight.control("facts", "whatever")["row"] == costs.row
