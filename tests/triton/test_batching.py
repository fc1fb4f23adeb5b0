"""Requests in flight share engine calls, and none can tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backdrop_client.triton import Replaced
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.triton.flight import Flight, fields_of

pytestmark = pytest.mark.triton

SAME_DB = 60.0
MIXED = [
    fields_of(scheduler="Euler", seed=1),
    fields_of(scheduler="DPM2 Karras", seed=2, samples=2, cn_weight=0.2),
    fields_of((300, 100), scheduler="DDIM", seed=3, num_inference_steps=33),
    fields_of((100, 300), scheduler="Euler a", seed=4, samples=3, guidance_scale=1.0),
    fields_of(scheduler="UniPC", seed=5, strength=0.6, ip_adapter_weight=0.9),
    fields_of((300, 100), scheduler="DDPM", seed=6, samples=4, guidance_scale=12.0),
    fields_of(scheduler="Heun", seed=7, strength=0.45, negative_prompt="snow"),
    fields_of((250, 200), scheduler="PNDM", seed=8, ip_adapter_weight=0.0, cn_weight=1.0),
]


@pytest.fixture(scope="module")
def flight(server: TritonServer) -> Iterator[Flight]:
    with Flight(server) as opened:
        yield opened


def assert_same(together: Replaced, alone: Replaced) -> None:
    assert together.seeds == alone.seeds
    for first, second in zip(together.images, alone.images, strict=True):
        assert pictures.psnr(pictures.decode(first), pictures.decode(second)) >= SAME_DB


def test_eight_mixed_requests_equal_their_solo_runs(flight: Flight) -> None:
    together = flight.ask_all(MIXED)
    sizes = {tuple(answer.report["working_size"]) for answer in together}
    assert len(sizes) >= 3
    assert all(a.report["mean_rows_together"] > a.report["rows"] for a in together[:2])
    for fields, answer in zip(MIXED, together, strict=True):
        assert_same(answer, flight.ask(fields))


def test_the_servers_statistics_show_shared_calls(flight: Flight) -> None:
    names = ("backdrop_engine_calls_total", "backdrop_engine_rows_total")
    before = [flight.metric(name) for name in names]
    inferences, executions = flight.statistics()
    answers = flight.ask_all(MIXED)
    calls, rows = (flight.metric(name) - old for name, old in zip(names, before, strict=True))
    later_inferences, later_executions = flight.statistics()

    reports = [answer.report for answer in answers]
    evaluations = sum(report["unet_evaluations"] for report in reports)
    assert rows == sum(report["unet_evaluations"] * report["rows"] for report in reports)
    # Each report counts the calls that grouping by size and the row limit predicts for those that
    # were in flight with it, shared out by rows: their sum is the number of calls made.
    assert calls == pytest.approx(sum(report["engine_calls"] for report in reports), abs=1e-3)
    assert calls < 0.75 * evaluations
    assert later_inferences - inferences >= len(MIXED)
    assert later_executions - executions < 0.5 * evaluations


def test_a_late_request_joins_and_leaves_while_others_run(flight: Flight) -> None:
    long = fields_of(scheduler="DPM2 Karras", num_inference_steps=100, seed=21)
    short = fields_of(scheduler="Euler", num_inference_steps=20, seed=22)
    first = flight.send(long, "long-one")
    joined_at = flight.wait_for("long-one", lambda status: status["step"] >= 5)
    second = flight.send(short, "late-one").result()
    left_at = flight.control("status", "long-one")
    assert joined_at["stage"] == left_at["stage"] == "running"
    assert 25 <= left_at["step"] < left_at["total"] == 199
    # 4 rows where both are in a call; at most two of its 20 evaluations may miss the other.
    assert 3.8 <= second.report["mean_rows_together"] <= 4.0
    assert_same(first.result(), flight.ask(long))
    assert_same(second, flight.ask(short))


def test_eight_requests_of_four_samples_fill_every_call(flight: Flight) -> None:
    requests = [fields_of(scheduler="Euler", samples=4, seed=100 * n) for n in range(8)]
    answers = flight.ask_all(requests)
    together = sorted(answer.report["mean_rows_together"] for answer in answers)
    assert together[2] > 14 and together[-1] <= 16  # 64 rows, 16 to a call
    for fields, answer in zip(requests[::3], answers[::3], strict=True):
        assert len(answer.images) == 4
        assert_same(answer, flight.ask(fields))


def test_sample_k_equals_a_solo_request_with_its_seed(flight: Flight) -> None:
    answer = flight.ask(fields_of(scheduler="Euler a", samples=4, seed=500, strength=0.8))
    assert answer.seeds == (500, 501, 502, 503)
    for image, seed in zip(answer.images, answer.seeds, strict=True):
        solo = flight.ask(fields_of(scheduler="Euler a", seed=seed, strength=0.8))
        score = pictures.psnr(pictures.decode(image), pictures.decode(solo.images[0]))
        assert score >= SAME_DB
