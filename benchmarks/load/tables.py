"""The README's tables of the load benches, written from their result files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.load.energy import NONE

Result = Mapping[str, Any]


def load(result: Result) -> list[str]:
    """Capacity of each way, then latency at each load, then the comparison in one sentence."""
    price = result["price"]
    capacity = result["capacity"]
    lines = [
        "| as many requests as it takes | pictures/s | s billed a picture | $ per 1000 pictures |",
        "|---|---|---|---|",
    ]
    for name, row in capacity.items():
        billed = row["seconds_billed_per_picture"]
        dollars = row["dollars"]["per_1000_pictures"]
        what = f"{_WAYS.get(name, name)}, {row['in_flight']} in flight"
        lines.append(
            f"| {what} | {row['pictures_per_second']:.2f} | {billed:.2f} | {dollars:.3f} |"
        )
    lines += [
        "",
        "| requests arrive at random (Poisson) | offered/s | p50, s | p95, s | p99, s | requests "
        "| rows in a call |",
        "|---|---|---|---|---|---|---|",
        *(_arrivals(row) for row in result["open_loop"]),
        _burst(result["burst"]),
        "",
        f"$: at {price['per_hour']} an hour for the machine ({price['note']}, {price['as_of']}). "
        f"Energy: {_energy(capacity['ours']['joules_per_picture'])}.",
        "",
        *_compared(result),
    ]
    return lines


_WAYS = {
    "ours": "Backdrop, equal requests",
    "ours, mixed": "Backdrop, mixed requests",
    "one at a time": "the same server, one request at a time",
    "diffusers": "diffusers behind FastAPI with a lock, FP32",
    "diffusers, bf16": "diffusers behind FastAPI with a lock, BF16",
}


def _arrivals(row: Result) -> str:
    latency, rows = row["latency_s"], row["rows_per_call"]
    times = " | ".join(f"{latency[name]:.2f}" for name in ("p50", "p95", "p99"))
    cells = f"{row['offered_per_second']:.2f} | {times} | {row['requests']} | {_rows(rows)}"
    return f"| {_name(row)} | {cells} |"


def _name(row: Result) -> str:
    if "share_of_locked" in row:
        return f"Backdrop, {row['share_of_locked']:.0%} of what one at a time can do"
    if "share_of_own" in row:
        return f"{row['door']}, {row['share_of_own']:.0%} of its capacity"
    mixed = ", mixed" if row["mix"] == "mixed" else ""
    return f"Backdrop over {row['door']}{mixed}, {row['share_of_ours']:.0%} of capacity"


def _burst(row: Result) -> str:
    latency, rows = row["latency_s"], row["rows_per_call"]
    times = " | ".join(f"{latency[name]:.2f}" for name in ("p50", "p95", "p99"))
    name = f"{row['together']} requests in one moment"
    return f"| {name} | at once | {times} | {row['requests']} | {_rows(rows)} |"


def _energy(joules: float | None) -> str:
    return NONE if joules is None else f"{joules:.1f} J a picture at capacity"


def _rows(rows: float | None) -> str:
    return "" if rows is None else f"{rows:.1f}"


def _compared(result: Result) -> list[str]:
    told = result["compared"]
    return [
        f"With the same engine, in the same run: {told['pictures_by_one_at_a_time']:.2f} times the "
        f"pictures of one request at a time, {told['pictures_by_diffusers']:.1f} times those of "
        f"diffusers in FP32; at 80 % of what one at a time can do, its p99 is "
        f"{told['p99_one_at_a_time_by_ours']:.1f} times ours."
    ]


def other_engine(result: Result) -> str:
    """The same run with another engine, in one sentence."""
    told, capacity, made = result["compared"], result["capacity"], result["conditions"]
    engine = result["bundle_and_engine"].partition("-")[2]
    where = f"{made['date']}, {made['cores']} cores of {made['cpu']}"
    return (
        f"With {engine} ({where}): {capacity['ours']['pictures_per_second']:.2f} pictures a second, "
        f"{told['pictures_by_one_at_a_time']:.2f} times those of one request at a time, "
        f"{told['pictures_by_diffusers']:.1f} times those of diffusers in FP32; p99 "
        f"{told['p99_one_at_a_time_by_ours']:.1f} times ours."
    )


def solo(results: Sequence[Result]) -> list[str]:
    """Where one request's time goes, by engine."""
    request = results[0]["request"]
    engines = [result["bundle_and_engine"].partition("-")[2] for result in results]
    what = f"one {request['photo']}, {request['num_inference_steps']} steps, by itself"
    lines = [f"| {what} | {' | '.join(f'{engine}, ms' for engine in engines)} |"]
    lines.append("|---" * (1 + len(results)) + "|")
    for name in results[0]["milliseconds"]:
        cells = " | ".join(f"{result['milliseconds'][name]:.1f}" for result in results)
        lines.append(f"| {name} | {cells} |")
    shares = (
        f"{result['overhead_share']:.1%} with {engine}"
        for result, engine in zip(results, engines, strict=True)
    )
    return [*lines, "", f"Not engine time: {', '.join(shares)}. {_machine(results[0])}"]


def paper(result: Result) -> list[str]:
    """Where one request's time would go at SDXL's size."""
    rate = result["flop_per_second"] / 1e12
    lines = [f"| one JPEG {result['size']} by SDXL, on paper | ms |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in result["milliseconds"].items()]
    unhidden = f"{result['overhead_share_unhidden']:.1%} if a device hid nothing of the loop"
    default = result["api_default"]
    share = f"{result['overhead_share']:.1%} with Euler's 25 evaluations ({unhidden}), "
    share += f"{default['overhead_share']:.1%} with {default['sampler']}, the API's default"
    told = f"Not engine time: {share}; engines at {rate:.0f} TFLOP/s. {_machine(result)}"
    return [*lines, "", told]


def _machine(result: Result) -> str:
    made = result["conditions"]
    units = ", ".join(made["vector_units"])
    return f"Measured {made['date']} on {made['cores']} cores of {made['cpu']} ({units})."


def growth(result: Result) -> list[str]:
    """Seconds billed beside the FLOP count."""
    lines = ["| by itself | GFLOP | s billed | GFLOP/s billed |", "|---|---|---|---|"]
    for row in result["rows"]:
        value = ", ".join(f"{name} {_plain(one)}" for name, one in row["value"].items())
        numbers = f"{row['gflop']:.1f} | {row['seconds_billed']:.2f}"
        lines.append(f"| {value} | {numbers} | {row['gflop_per_second_billed']:.0f} |")
    lines += ["", "| in flight | pictures/s | s billed a picture | p50, s |", "|---|---|---|---|"]
    for row in result["in_flight"]:
        billed = row["seconds_billed_per_picture"]
        rate = f"{row['pictures_per_second']:.2f} | {billed:.2f}"
        lines.append(f"| {row['in_flight']} | {rate} | {row['latency_s']['p50']:.2f} |")
    return lines


def _plain(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def overload(result: Result) -> str:
    """What ten times the capacity does, in two sentences."""
    near, over, after = (result[name] for name in ("near", "overload", "after"))
    ratio = over["accepted_s"]["p99"] / near["accepted_s"]["p99"]
    refused = 1000 * over["refused_s"]["p99"]
    return (
        f"Offered {result['offered_per_second']:.0f} requests a second, ten times what it can do: "
        f"{over['accepted']} accepted with a p99 of {over['accepted_s']['p99']:.1f} s ({ratio:.2f} "
        f"times that at 95 % load), {over['refused']} refused within {refused:.0f} ms (p99), "
        f"{over['failed']} failed. {after['seconds_after']:.0f} s later {after['accepted']} of "
        f"{after['requests']} requests were taken at half the load."
    )
