"""A plan as tables for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from backdrop_export.checkpoints.plan import Plan

_PRECISIONS = ("fp32", "fp16")


def plan_json(plan: Plan) -> str:
    """The plan as one JSON object; sizes in bytes."""
    content = dataclasses.asdict(plan)
    for row, graph in zip(content["graphs"], plan.graphs, strict=True):
        row["bytes"] = {name: graph.bytes_in(name) for name in _columns(plan)}
    return json.dumps(content, indent=2)


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print what is read, what is written, and what that needs."""
    console = console or Console(highlight=False)
    console.print(_sources(plan))
    console.print(_graphs(plan))
    written = plan.graphs_in(plan.graph_precision), plan.graphs_in(plan.engine_precision)
    console.print(
        f"Written: bundle {size(plan.bundle_size)}, graphs in {plan.graph_precision} "
        f"{size(written[0])}, engines ({plan.engine}) {size(written[1])}"
    )
    console.print(
        f"Memory: about {size(plan.peak_memory)} at the peak; this machine has "
        f"{size(plan.machine_memory)}"
    )
    for disk in plan.disks:
        console.print(f"Disk {disk.folder}: {size(disk.needed)} needed, {size(disk.free)} free")


def size(count: int) -> str:
    """Bytes as people write them."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} B"


def _sources(plan: Plan) -> Table:
    table = Table(title=f"{plan.name}: what is read")
    for column in ("part", "source"):
        table.add_column(column, overflow="fold")
    for column in ("files", "size", "to download"):
        table.add_column(column, justify="right")
    for row in plan.sources:
        download = size(row.download) if row.download else "present"
        table.add_row(row.part, row.source, str(row.files), size(row.size), download)
    total = sum(row.download for row in plan.sources)
    sizes = sum(row.size for row in plan.sources)
    table.add_section()
    table.add_row("all", "", "", size(sizes), size(total) if total else "nothing")
    return table


def _columns(plan: Plan) -> list[str]:
    return list(dict.fromkeys((*_PRECISIONS, plan.graph_precision, plan.engine_precision)))


def _graphs(plan: Plan) -> Table:
    table = Table(title=f"{plan.name}: what is written for {plan.engine}")
    table.add_column("graph")
    for column in ("parameters", *_columns(plan)):
        table.add_column(column, justify="right")
    for row in plan.graphs:
        about = "about " if row.estimated else ""
        count = f"{about}{row.parameters / 1e6:,.1f} M"
        table.add_row(row.graph, count, *(size(row.bytes_in(name)) for name in _columns(plan)))
    return table
