"""The load bench: capacity, Poisson arrivals and a burst, against one at a time and plain diffusers.

    python -m benchmarks.load --repository build/demo-openvino-bf16 --bundle build/bundles/demo

Real servers, one after another on the same machine, the same seeded requests. Latency counts from a
request's arrival. Writes results/load-<repository>.json and docs/pictures/load.png.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backdrop_client.load import Outcome, Send, offered, poisson, saturated
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result
from benchmarks.load import doors, mix
from benchmarks.load.energy import EnergyMeter
from benchmarks.load.figures import dollars, figures, price, rows_per_call
from benchmarks.load.plots import draw_load

LOADS = (0.5, 0.8, 0.95)
IN_FLIGHT = 16
WARM_UP = 2
ROUNDS = 3
"""Of step batching and one at a time by turns; odd."""
MIXES = {"equal": mix.equal, "mixed": mix.mixed}
Rows = list[dict[str, Any]]
console = Console()


class Bench:
    """Phases of ``seconds`` each against a running Triton; ``per_hour``: dollars of the machine."""

    def __init__(self, server: TritonServer, seconds: float, per_hour: float, seed: int) -> None:
        self._server = server
        self._seconds = seconds
        self._per_hour = per_hour
        self._seed = seed

    def capacity(
        self, send: Send, in_flight: int, kind: str = "equal", part: float = 1.0
    ) -> dict[str, Any]:
        """Closed loop: so many requests always at work, for ``part`` of a phase."""
        seconds = part * self._seconds
        for fields in itertools.islice(mix.equal(0), WARM_UP):
            send(fields)
        before = self._begin()
        outcomes = saturated(send, MIXES[kind](self._seed), in_flight, seconds)
        return {"in_flight": in_flight, "mix": kind, **self._told(outcomes, seconds, before)}

    def capacities(self, ours: Send, locked: Send) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of both ways, by turns in short phases: the round whose ratio is the median.

        A machine's speed changes by a quarter within minutes; long phases one after another would
        compare two machines.
        """
        rounds = [
            (self.capacity(ours, IN_FLIGHT, part=0.5), self.capacity(locked, 1, part=0.5))
            for _ in range(ROUNDS)
        ]
        return sorted(rounds, key=lambda pair: _times(*pair))[ROUNDS // 2]

    def load(
        self, send: Send, door: str, rate: float, kind: str = "equal", **more: Any
    ) -> dict[str, Any]:
        """Open loop: Poisson arrivals at ``rate`` requests a second."""
        console.print(f"{door}: {rate:.2f} requests/s, {kind}")
        times = poisson(rate, self._seconds, self._seed)
        before = self._begin()
        outcomes = offered(send, MIXES[kind](self._seed), times)
        told = self._told(outcomes, self._seconds, before)
        return {"door": door, "mix": kind, "offered_per_second": round(rate, 4), **more, **told}

    def burst(self, send: Send, count: int) -> dict[str, Any]:
        """``count`` requests in the same moment."""
        before = self._begin()
        outcomes = offered(send, mix.equal(self._seed), [0.0] * count)
        return {"together": count, **self._told(outcomes, 0.0, before)}

    def _begin(self) -> tuple[dict[str, float], EnergyMeter]:
        return doors.counters(self._server.metrics_url), EnergyMeter()

    def _told(
        self,
        outcomes: Sequence[Outcome],
        seconds: float,
        before: tuple[dict[str, float], EnergyMeter],
    ) -> dict[str, Any]:
        counters, energy = before
        joules = energy.joules()
        told = figures(outcomes, seconds)
        told["rows_per_call"] = rows_per_call(counters, doors.counters(self._server.metrics_url))
        told["dollars"] = dollars(told["pictures_per_second"], self._per_hour)
        made = sum(outcome.samples for outcome in outcomes if outcome.error is None)
        told["joules_per_picture"] = None if joules is None else round(joules / made, 1)
        return told


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")] = Path(
        "build/demo-openvino-bf16"
    ),
    bundle: Annotated[Path, typer.Option(help="Its bundle, for diffusers.")] = Path(
        "build/bundles/demo"
    ),
    seconds: Annotated[float, typer.Option(help="Of each phase.", min=1)] = 35.0,
    machine: Annotated[str, typer.Option(help="An entry of prices.toml.")] = "two-cpu-cores",
    seed: Annotated[int, typer.Option(help="Of arrivals and requests.")] = 1,
    pictures: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("docs/pictures"),
) -> None:
    """Measure, print a table, write the result file and the plot."""
    entry = price(machine)
    settings = LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(settings, on_line=lambda line: None) as server:
        bench = Bench(server, seconds, entry["per_hour"], seed)
        result: dict[str, Any] = {
            "bundle_and_engine": repository.name,
            "seconds_of_a_phase": seconds,
            "seed": seed,
            "price": {"machine": machine, **{key: str(value) for key, value in entry.items()}},
            **measure(bench, server, bundle),
        }
    result["compared"] = compared(result)
    path = write_result(f"load-{repository.name}", result)
    draw_load(result, pictures / "load.png")
    show(result)
    console.print(f"written: {path}")


def measure(bench: Bench, server: TritonServer, bundle: Path) -> dict[str, Any]:
    """All phases."""
    rows: Rows = []
    with doors.grpc(server.grpc_url) as send:
        locked = doors.one_at_a_time(send)
        ours, alone = bench.capacities(send, locked)
        capacity = {
            "ours": ours,
            "ours, mixed": bench.capacity(send, IN_FLIGHT, "mixed"),
            "one at a time": alone,
        }
        rate = capacity["ours"]["requests_per_second"]
        rows += [bench.load(send, "gRPC", share * rate, share_of_ours=share) for share in LOADS]
        mixed_rate = 0.8 * capacity["ours, mixed"]["requests_per_second"]
        rows.append(bench.load(send, "gRPC", mixed_rate, "mixed", share_of_ours=0.8))
        theirs = 0.8 * capacity["one at a time"]["requests_per_second"]
        rows.append(bench.load(locked, "one at a time", theirs, share_of_own=0.8))
        rows.append(bench.load(send, "gRPC", theirs, share_of_locked=0.8))
        burst = bench.burst(send, IN_FLIGHT)
    others: dict[str, Callable[[], contextlib.AbstractContextManager[Send]]] = {
        "HTTP": lambda: doors.http(server.http_url),
        "REST": lambda: doors.rest(server.http_url),
    }
    for name, opened in others.items():
        with opened() as send:
            rows.append(bench.load(send, name, 0.5 * rate, share_of_ours=0.5))
    with doors.eager(bundle, "fp32") as send:
        capacity["diffusers"] = bench.capacity(send, 1, part=0.5)
        slow = 0.8 * capacity["diffusers"]["requests_per_second"]
        rows.append(bench.load(send, "diffusers", slow, share_of_own=0.8))
    with doors.eager(bundle, "bf16") as send:
        capacity["diffusers, bf16"] = bench.capacity(send, 1, part=0.5)
    return {"capacity": capacity, "open_loop": rows, "burst": burst}


def compared(result: dict[str, Any]) -> dict[str, float]:
    """Step batching beside one request at a time, and beside plain diffusers, in this run."""
    capacity, rows = result["capacity"], result["open_loop"]
    locked = next(row for row in rows if row["door"] == "one at a time")
    same = next(row for row in rows if "share_of_locked" in row)
    return {
        "p99_one_at_a_time_by_ours": round(
            locked["latency_s"]["p99"] / same["latency_s"]["p99"], 2
        ),
        "pictures_by_one_at_a_time": _times(capacity["ours"], capacity["one at a time"]),
        "pictures_by_diffusers": _times(capacity["ours"], capacity["diffusers"]),
    }


def _times(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """How many times their pictures a second ours are."""
    times: float = ours["pictures_per_second"] / theirs["pictures_per_second"]
    return round(times, 2)


def show(result: dict[str, Any]) -> None:
    """A table of the open-loop runs."""
    table = Table(title=result["bundle_and_engine"])
    for title in ("door", "mix", "offered/s", "p50", "p95", "p99", "pictures/s", "$ per 1000"):
        table.add_column(title)
    for row in result["open_loop"]:
        latency = (f"{row['latency_s'][name]:.2f}" for name in ("p50", "p95", "p99"))
        table.add_row(
            row["door"],
            row["mix"],
            f"{row['offered_per_second']:.2f}",
            *latency,
            f"{row['pictures_per_second']:.2f}",
            f"{row['dollars']['per_1000_pictures']:.3f}",
        )
    console.print(table)
    console.print_json(data=result["compared"])


if __name__ == "__main__":
    typer.run(main)
