"""Ten times what the server can do: what the accepted and the refused get, and how it is afterwards.

    python -m benchmarks.load.overload --repository build/demo-openvino-bf16

The real gateway and Triton, Poisson arrivals of equal requests over v1. The bound on waiting requests
is the latency that is promised: (max_in_flight + max_waiting) / capacity.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from backdrop_client.load import Outcome, Send, offered, percentile, poisson, saturated
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result
from benchmarks.load import doors, mix
from benchmarks.load.figures import figures

TIMES = 10
NEAR = 0.95
AFTERWARDS = 5.0
"""Seconds after the overload in which the server has to be its old self."""
IN_FLIGHT, MAX_WAITING = 16, 8
console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")] = Path(
        "build/demo-openvino-bf16"
    ),
    seconds: Annotated[float, typer.Option(help="Of the overload.", min=1)] = 120.0,
    seed: Annotated[int, typer.Option(help="Of arrivals and requests.")] = 1,
) -> None:
    """Measure, print, write the result file."""
    settings = LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer(settings, on_line=lambda line: None) as server,
        doors.rest(server.http_url, max_waiting=str(MAX_WAITING)) as send,
    ):
        result = {
            "bundle_and_engine": repository.name,
            "max_in_flight": IN_FLIGHT,
            "max_waiting": MAX_WAITING,
            **measure(send, seconds, seed),
        }
    path = write_result(f"overload-{repository.name}", result)
    console.print_json(data={k: v for k, v in result.items() if k != "conditions"})
    console.print(f"written: {path}")


def measure(send: Send, seconds: float, seed: int) -> dict[str, Any]:
    """Capacity, near it, ten times it, and what comes after."""
    for fields in itertools.islice(mix.equal(0), 2):
        send(fields)  # warm-up
    rate = figures(saturated(send, mix.equal(seed), IN_FLIGHT, seconds / 4), seconds / 4)[
        "requests_per_second"
    ]
    near = offered(send, mix.equal(seed), poisson(NEAR * rate, seconds, seed))
    times = poisson(TIMES * rate, seconds, seed)
    # What comes after is one with the run: the overload stops, these go on at half the capacity.
    later = [seconds + AFTERWARDS + n / (0.5 * rate) for n in range(8)]
    outcomes = offered(send, mix.equal(seed + 1), [*times, *later])
    over, after = outcomes[: len(times)], outcomes[len(times) :]
    return {
        "capacity_per_second": rate,
        "near": told(near),
        "offered_per_second": round(TIMES * rate, 2),
        "overload": told(over),
        "after": {**told(after), "seconds_after": AFTERWARDS},
    }


def told(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accepted, refused and failed requests apart, with their latencies in seconds."""
    accepted = [o.latency for o in outcomes if o.error is None]
    refused = [o.latency for o in outcomes if o.refused]
    lost = [o.error for o in outcomes if o.error is not None and not o.refused]
    return {
        "requests": len(outcomes),
        "accepted": len(accepted),
        "refused": len(refused),
        "failed": len(lost),
        "errors": sorted({str(error) for error in lost})[:3],
        "accepted_s": _percentiles(accepted),
        "refused_s": _percentiles(refused),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {f"p{share}": round(percentile(values, share / 100), 4) for share in (50, 95, 99)}


if __name__ == "__main__":
    typer.run(main)
