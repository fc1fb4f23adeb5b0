"""The load bench: capacity, Poisson arrivals and a burst, against one at a time and plain diffusers.

    python -m benchmarks.load --repository build/demo-openvino-bf16 --bundle build/bundles/demo

Real servers, one after another on the same machine, the same seeded requests. Latency counts from a
request's arrival. Writes results/load-<repository>.json and docs/pictures/load.png.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backdrop_client.load import Send
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result
from benchmarks.load import doors
from benchmarks.load.figures import price
from benchmarks.load.phases import IN_FLIGHT, Bench, Row, times_the_pictures
from benchmarks.load.plots import draw_load

LOADS = (0.5, 0.8, 0.95)
console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")] = Path(
        "build/demo-openvino-bf16"
    ),
    bundle: Annotated[Path, typer.Option(help="Its bundle, for diffusers.")] = Path(
        "build/bundles/demo"
    ),
    seconds: Annotated[float, typer.Option(help="Of each phase.", min=1)] = 28.0,
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
    rows: list[Row] = []
    with doors.grpc(server.grpc_url) as send:
        locked = doors.one_at_a_time(send)
        ours, alone, at_its_load = bench.by_turns(send, locked)
        capacity = {
            "ours": ours,
            "ours, mixed": bench.capacity(send, IN_FLIGHT, "mixed"),
            "one at a time": alone,
        }
        rate = capacity["ours"]["requests_per_second"]
        rows += [bench.load(send, "gRPC", share * rate, share_of_ours=share) for share in LOADS]
        mixed_rate = 0.8 * capacity["ours, mixed"]["requests_per_second"]
        rows.append(bench.load(send, "gRPC", mixed_rate, "mixed", share_of_ours=0.8))
        rows += at_its_load
        burst = bench.burst(send, IN_FLIGHT)
    others: dict[str, Callable[[], contextlib.AbstractContextManager[Send]]] = {
        "HTTP": lambda: doors.http(server.http_url),
        "REST": lambda: doors.rest(server.http_url),
    }
    for name, opened in others.items():
        with opened() as send:
            rows.append(bench.load(send, name, 0.5 * rate, part=0.5, share_of_ours=0.5))
    with doors.eager(bundle, "fp32") as send:
        capacity["diffusers"] = bench.capacity(send, 1, part=0.5)
        slow = 0.8 * capacity["diffusers"]["requests_per_second"]
        rows.append(bench.load(send, "diffusers", slow, part=0.5, share_of_own=0.8))
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
        "pictures_by_one_at_a_time": times_the_pictures(
            capacity["ours"], capacity["one at a time"]
        ),
        "pictures_by_diffusers": times_the_pictures(capacity["ours"], capacity["diffusers"]),
    }


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
