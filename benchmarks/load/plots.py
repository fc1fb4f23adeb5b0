"""Plots: latency and cost against load; cost against the FLOP count, pictures against requests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"ours": "#1667b7", "one at a time": "#c4622d", "diffusers": "#777777"}
INK = "#333333"


def draw_load(result: Mapping[str, Any], path: Path) -> None:
    """Percentiles by offered load, and dollars by load, as one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    latency, cost = figure.subplots(1, 2)
    rows = [row for row in result["open_loop"] if row["door"] == "gRPC" and row["mix"] == "equal"]
    rows.sort(key=lambda row: row["offered_per_second"])
    across = [row["offered_per_second"] for row in rows]
    for name, style in (("p50", "o-"), ("p95", "s--"), ("p99", "^:")):
        up = [row["latency_s"][name] for row in rows]
        latency.plot(across, up, style, color=COLOURS["ours"], label=f"Backdrop {name}")
    for row in result["open_loop"]:
        if row["door"] in {"one at a time", "diffusers"}:
            point = row["offered_per_second"], row["latency_s"]["p99"]
            latency.plot(*point, "x", color=COLOURS[row["door"]], label=f"{row['door']} p99")
    latency.set(
        xlabel="requests offered a second", ylabel="seconds", title="Latency, equal requests"
    )
    dollars = [row["dollars"]["per_1000_pictures"] for row in rows]
    cost.plot(across, dollars, "o-", color=COLOURS["ours"], label="Backdrop")
    for name, row in result["capacity"].items():
        if name in COLOURS and name != "ours":
            at = row["dollars"]["per_1000_pictures"]
            cost.axhline(at, color=COLOURS[name], linestyle="--", label=f"{name}, at capacity")
    cost.set(xlabel="requests offered a second", ylabel="$ per 1000 pictures", title="Cost")
    for axes in (latency, cost):
        axes.legend(fontsize=8, frameon=False)
    _finish(figure, path)


def draw_growth(result: Mapping[str, Any], path: Path) -> None:
    """Seconds billed by FLOP, and pictures a second by requests in flight, as one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    cost, rate = figure.subplots(1, 2)
    for name in dict.fromkeys(row["varied"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["varied"] == name]
        points = sorted((row["gflop"], row["seconds_billed"]) for row in rows)
        cost.plot(*zip(*points, strict=True), "o-", label=name, alpha=0.8)
    cost.set(xlabel="GFLOP of the request", ylabel="seconds billed", title="Cost, by itself")
    cost.set_xlim(left=0)
    cost.legend(fontsize=8, frameon=False)
    rows = result["in_flight"]
    across = [row["in_flight"] for row in rows]
    rate.plot(across, [row["pictures_per_second"] for row in rows], "o-", color=COLOURS["ours"])
    rate.set_xscale("log", base=2)
    rate.set_xticks(across, [str(count) for count in across])
    rate.set(xlabel="requests in flight", ylabel="pictures a second", title="Requests together")
    _finish(figure, path)


def _finish(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
