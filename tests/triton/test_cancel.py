"""Cancelling through `control`, live duplicates, and the bound on requests held."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from backdrop_client.triton import Replaced
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.triton.flight import Flight, fields_of

pytestmark = pytest.mark.triton

LONG = fields_of(scheduler="DPM2 Karras", num_inference_steps=100, samples=2)


@pytest.fixture(scope="module")
def flight(server: TritonServer) -> Iterator[Flight]:
    with Flight(server) as opened:
        yield opened


def assert_cancelled(future: Future[Replaced]) -> None:
    with pytest.raises(InferenceServerException, match="cancelled") as caught:
        future.result(timeout=120)
    assert caught.value.status() == "StatusCode.CANCELLED"


def wait_until_idle(flight: Flight) -> None:
    deadline = time.monotonic() + 60
    while flight.metric("backdrop_requests_in_loop") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert flight.metric("backdrop_requests_in_loop") == 0


def test_a_running_request_stops_within_two_steps(flight: Flight) -> None:
    future = flight.send(LONG, "running")
    flight.wait_for("running", lambda status: status["step"] >= 3)
    at = flight.control("cancel", "running")["step"]
    assert_cancelled(future)
    end = flight.control("status", "running")
    assert end["stage"] == "ended"
    assert end["step"] <= at + 2
    wait_until_idle(flight)


def test_its_batch_mates_go_on(flight: Flight) -> None:
    fields = fields_of(seed=77, scheduler="Euler", num_inference_steps=60)
    alone = flight.ask(fields)
    mate, doomed = flight.send(fields, "mate"), flight.send(LONG, "doomed")
    flight.wait_for("doomed", lambda status: status["step"] >= 2)
    flight.control("cancel", "doomed")
    assert_cancelled(doomed)
    pair = [pictures.decode(answer.images[0]) for answer in (mate.result(), alone)]
    assert pictures.psnr(*pair) >= 60.0
    wait_until_idle(flight)


def test_a_cancel_that_comes_first_is_honoured(flight: Flight) -> None:
    assert flight.control("cancel", "early")["stage"] == "tombstone"
    assert_cancelled(flight.send(LONG, "early"))
    assert flight.control("status", "early")["step"] == 0
    assert flight.send(fields_of(), "early").result().images  # the tombstone served once


def test_a_cancel_before_the_loop_is_honoured(flight: Flight) -> None:
    future = flight.send(LONG, "waiting")
    flight.wait_for("waiting", lambda status: status["stage"] == "waiting")
    flight.control("cancel", "waiting")
    assert_cancelled(future)
    assert flight.control("status", "waiting")["step"] <= 1  # the loop may have taken it meanwhile
    wait_until_idle(flight)


def test_one_of_forty_that_wait_is_cancelled_without_a_step(flight: Flight) -> None:
    futures = {
        f"many-{n}": flight.send(
            fields_of(seed=n, scheduler="Euler", num_inference_steps=50), f"many-{n}"
        )
        for n in range(40)
    }
    deadline = time.monotonic() + 120
    waiting: list[str] = []
    while time.monotonic() < deadline:
        stages = {name: flight.control("status", name)["stage"] for name in futures}
        waiting = [name for name, stage in stages.items() if stage == "waiting"]
        if "unknown" not in stages.values() and waiting:
            break
    assert waiting, "none of forty had to wait"
    chosen = waiting[-1]
    flight.control("cancel", chosen)
    assert_cancelled(futures.pop(chosen))
    ended = flight.control("status", chosen)
    assert ended["step"] <= 1
    assert all(future.result().images for future in futures.values())
    wait_until_idle(flight)


def test_a_live_duplicate_is_refused_and_the_first_goes_on(flight: Flight) -> None:
    first = flight.send(fields_of(num_inference_steps=60), "twin")
    flight.wait_for("twin", lambda status: status["stage"] == "running")
    with pytest.raises(InferenceServerException, match="request id: a live request has the same"):
        flight.send(fields_of(), "twin").result()
    assert first.result().images


def test_beyond_the_bound_requests_are_unavailable(flight: Flight) -> None:
    names = [f"crowd-{n}" for n in range(80)]
    futures = {name: flight.send(LONG, name) for name in names}
    deadline = time.monotonic() + 120
    while not any(future.done() for future in futures.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stages: list[str] = []
    while time.monotonic() < deadline:
        stages = [flight.control("status", name)["stage"] for name in names]
        refused = sum(future.done() for future in futures.values())
        if refused + sum(stage in ("waiting", "running") for stage in stages) == len(names):
            break
    for name in names:
        flight.control("cancel", name)
    errors = [future.exception() for future in futures.values()]
    codes = [error.status() for error in errors if isinstance(error, InferenceServerException)]
    assert codes.count("StatusCode.UNAVAILABLE") == 16
    assert codes.count("StatusCode.CANCELLED") == 64
    wait_until_idle(flight)
    assert flight.ask(fields_of()).images


def test_progress_and_preview_are_seen_while_it_runs(flight: Flight) -> None:
    future = flight.send(fields_of(num_inference_steps=80), "watched")
    seen = flight.wait_for("watched", lambda status: status["step"] >= 3)
    assert seen["stage"] == "running"
    assert seen["total"] == 159
    preview = Image.open(io.BytesIO(seen["preview"]))
    assert preview.format == "PNG"
    assert preview.width * 8 == future.result().report["working_size"][0]
    assert flight.control("status", "watched")["stage"] == "ended"


@pytest.mark.parametrize(
    ("action", "target", "message"),
    [
        ("stop", "a", "action: 'stop' is not known; allowed: status, cancel, facts"),
        ("cancel", "", "target: it is empty; allowed: the id of a request"),
        ("status", None, "target: it is missing; allowed: the id of a request"),
    ],
)
def test_control_says_what_is_wrong(
    flight: Flight, action: str, target: str | None, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        flight.control(action, target)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
