"""Big requests among many small ones, and the reverse: each comes to its turn."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from backdrop_server.triton.launcher import TritonServer
from tests.triton.flight import Flight, fields_of

pytestmark = pytest.mark.triton

SMALL: dict[str, Any] = {"scheduler": "Euler", "num_inference_steps": 20}
BIG: dict[str, Any] = {"scheduler": "Euler", "num_inference_steps": 60, "samples": 4}
TOGETHER = 6


@pytest.fixture(scope="module")
def flight(server: TritonServer) -> Iterator[Flight]:
    with Flight(server) as opened:
        yield opened


def test_a_big_one_is_not_starved_by_a_stream_of_small_ones(flight: Flight) -> None:
    """Until it is through, each of the others' places is through with no more small ones than its 60
    steps have room for, and one that was on its way at either end."""
    done, over = [], threading.Event()

    def stream(place: int) -> None:
        while not over.is_set():
            flight.ask(fields_of(seed=place, **SMALL))
            done.append(time.monotonic())

    places = [threading.Thread(target=stream, args=(place,)) for place in range(TOGETHER)]
    for place in places:
        place.start()
    try:
        while len(done) < TOGETHER:
            time.sleep(0.01)
        begun = time.monotonic()
        big = flight.ask(fields_of(seed=99, **BIG))
        ended = time.monotonic()
    finally:
        over.set()
        for place in places:
            place.join()
    assert big.report["unet_evaluations"] == 60
    passed = sum(begun < moment < ended for moment in done)
    room = math.ceil(60 / 20) + 2
    assert TOGETHER <= passed <= TOGETHER * room


def test_a_small_one_is_not_starved_by_big_ones(flight: Flight) -> None:
    """It ends after its own 20 steps, long before the big ones that came first."""
    big = [
        flight.send(fields_of(seed=n, **BIG), request_id=f"starving-{n}") for n in range(TOGETHER)
    ]
    flight.wait_for("starving-0", lambda status: status["step"] >= 1)
    small = flight.ask(fields_of(seed=50, **SMALL))
    steps = flight.control("status", "starving-0")["step"]
    assert small.report["unet_evaluations"] == 20
    assert not any(future.done() for future in big), f"it waited for them: {steps} steps"
    assert steps < 60
    assert all(future.result().report["unet_evaluations"] == 60 for future in big)
