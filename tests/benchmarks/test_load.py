"""The load bench: its arithmetic on loads whose answers are known, and a short run on real servers."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from benchmarks.load import doors, mix, phases
from benchmarks.load.__main__ import compared, measure
from benchmarks.load.energy import EnergyMeter
from benchmarks.load.figures import dollars, figures, price, rows_per_call
from benchmarks.load.phases import Bench
from benchmarks.load.plots import draw_load
from PIL import Image

from backdrop_client.load import Outcome, offered, percentile, poisson, saturated
from backdrop_server.triton.launcher import TritonServer
from tests.conftest import launch

SERVICE = 0.05


def served(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A server that takes SERVICE for each request."""
    time.sleep(SERVICE)
    return {"seconds_billed": 2 * SERVICE}


def outcome(arrived: float, ended: float, samples: int = 1, error: str | None = None) -> Outcome:
    return Outcome(arrived, ended, samples, {}, error)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.99) == 7
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 0.5)


def test_poisson_arrivals_have_their_rate_and_a_spread_of_one() -> None:
    times = poisson(50, 200, seed=3)
    assert times == poisson(50, 200, seed=3) != poisson(50, 200, seed=4)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) == pytest.approx(10_000, rel=0.03)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1, rel=0.05)


def test_a_queue_of_one_gives_the_waits_of_lindleys_recursion() -> None:
    """Latency counts from arrival, although a request waits for its turn before it is sent."""
    took = []

    def timed(fields: Mapping[str, Any]) -> dict[str, Any]:
        begun = time.monotonic()
        answer = served(fields)
        took.append(time.monotonic() - begun)
        return answer

    times = poisson(0.8 / SERVICE, 3, seed=5)
    found = offered(doors.one_at_a_time(timed), mix.equal(1), times)
    free, expected = 0.0, []
    for arrived, service in zip(times, took, strict=True):
        free = max(free, arrived) + service
        expected.append(free - arrived)
    latencies = [one.latency for one in found]
    assert latencies == pytest.approx(expected, abs=0.4 * SERVICE)
    assert max(expected) > 2 * SERVICE, "nobody waited: the load is no load"


def test_figures_of_a_known_run() -> None:
    rows = [outcome(n, n + 2.0, samples=2) for n in range(9)] + [outcome(9, 29.0, error="lost")]
    told = figures(rows, 10)
    assert (told["requests"], told["failed"]) == (10, 1)
    assert told["latency_s"] == {"p50": 2, "p95": 2, "p99": 2}
    assert told["pictures_per_second"] == 1.8
    assert told["seconds_billed_per_picture"] is None
    with pytest.raises(ValueError, match="no request succeeded"):
        figures(rows[-1:], 10)


def test_dollars_and_rows() -> None:
    assert dollars(2.0, 7.2) == {"per_second": 0.002, "per_1000_pictures": 1.0}
    assert rows_per_call({"calls": 10, "rows": 20}, {"calls": 14, "rows": 60}) == 10
    assert rows_per_call({"calls": 1, "rows": 2}, {"calls": 1, "rows": 2}) is None
    with pytest.raises(KeyError, match="two-cpu-cores"):
        price("a-mainframe")


def test_stretches_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([(0, 0), (2, 8), (5, 20), (6, 28), (6, 28), (6, 28)])
    monkeypatch.setattr(
        doors, "counters", lambda url: dict(zip(("calls", "rows"), next(counted), strict=True))
    )
    monkeypatch.setattr(phases, "EnergyMeter", lambda: SimpleNamespace(joules=lambda: 6.0))
    stretches = phases.Stretches(cast(TritonServer, SimpleNamespace(metrics_url="")))
    stretches.add(10, lambda: [outcome(0, 2.0), outcome(1, 20.0, error="lost")])
    stretches.add(10, lambda: [outcome(0, 4.0), outcome(8, 14.0)])
    told = stretches.told(7.2)
    assert (told["requests"], told["failed"]) == (4, 1)
    assert told["latency_s"] == {"p50": 4, "p95": 6, "p99": 6}
    assert told["pictures_per_second"] == 3 / 24
    assert told["rows_per_call"] == 5.3333
    assert told["joules_per_picture"] == 4
    stretches.add(10, lambda: [])  # nobody came
    assert stretches.told(7.2)["pictures_per_second"] == 0.0882


def test_saturation_keeps_its_number_in_flight() -> None:
    outcomes = saturated(served, mix.equal(1), 4, 1.0)
    told = figures(outcomes, 1.0)
    assert told["requests_per_second"] == pytest.approx(4 / SERVICE, rel=0.15)
    assert told["seconds_billed_per_picture"] == 2 * SERVICE
    assert max(outcome.ended for outcome in outcomes) >= 1.0, "the last ones are counted too"


def test_energy_is_what_the_counters_say(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).joules() is None
    for number in (0, 1):
        package = tmp_path / f"intel-rapl:{number}"
        package.mkdir()
        (package / "energy_uj").write_text("9000000\n")
        (package / "max_energy_range_uj").write_text("10000000\n")
    meter = EnergyMeter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000\n")  # it began anew
    assert meter.joules() == 2.5


def test_requests_are_seeded_and_of_every_kind() -> None:
    first, again, other = (list(itertools.islice(mix.mixed(seed), 60)) for seed in (1, 1, 2))
    assert first == again != other
    assert {request["scheduler"] for request in first} == set(mix.SAMPLERS)
    assert {request["samples"] for request in first} == {1, 2}
    assert len({request["seed"] for request in first}) == 60


@pytest.mark.triton
def test_a_short_run_of_everything(repository: Path, bundle: Path, tmp_path: Path) -> None:
    with launch(repository) as server:
        result = measure(Bench(server, 2.0, 3.6, seed=1), server, bundle)
    assert [row["failed"] for row in result["open_loop"]] == [0] * len(result["open_loop"])
    assert {row["door"] for row in result["open_loop"]} == {
        "gRPC", "HTTP", "REST", "one at a time", "diffusers",
    }  # fmt: skip
    for row in (*result["capacity"].values(), result["burst"]):
        assert row["failed"] == 0
        per_1000 = 1000 * 0.001 / row["pictures_per_second"]
        assert row["dollars"]["per_1000_pictures"] == pytest.approx(per_1000, rel=1e-3)
    assert result["capacity"]["one at a time"]["rows_per_call"] == 2
    assert result["burst"]["rows_per_call"] > 2
    assert compared(result)["pictures_by_one_at_a_time"] > 1
    draw_load(result, tmp_path / "load.png")
    with Image.open(tmp_path / "load.png") as plot:
        assert plot.width > 1000
