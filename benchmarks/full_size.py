"""Export of the full-size graphs: seconds, memory, and whether what comes out is sound.

    python -m benchmarks.full_size --out build

Makes the `sdxl-random` bundle (11 GB) when it is not there, exports its five graphs in
FP16, loads each in ONNX Runtime and compares it with torch, and checks it against TensorRT's list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backdrop_export.bundles import GRAPH_FOLDERS, Bundle
from backdrop_export.memory import PeakMemory
from backdrop_export.onnx_graphs import export_graphs, graphs_folder
from backdrop_export.reporting import Report
from backdrop_export.synthetic import make_bundle
from backdrop_export.tensorrt_support import check_graph
from benchmarks.conditions import write_result

PRECISION = "fp16"
console = Console()


def main(
    out: Annotated[Path, typer.Option(help="Where the bundle and the graphs go.")] = Path("build"),
) -> None:
    """Measure, print a table, and write the result file."""
    report = Report()
    with report.step("bundle sdxl-random"), PeakMemory() as memory:
        bundle = Bundle.open(make_bundle("sdxl-random", out / "bundles" / "sdxl-random"))
    folder = graphs_folder(bundle, PRECISION, out)
    records = export_graphs(bundle, PRECISION, folder, report)
    graphs = {graph: _row(records[graph], folder / f"{graph}.onnx") for graph in GRAPH_FOLDERS}
    result = {
        "bundle": bundle.name,
        "precision": PRECISION,
        "bundle_peak_gb": round(memory.peak_bytes / 1e9, 2),
        "graphs": graphs,
        "seconds": round(sum(row["seconds"] for row in graphs.values()), 1),
    }
    path = write_result("full-size-export", result)
    _print(graphs)
    console.print(f"written: {path}")


def _row(record: dict[str, Any], graph: Path) -> dict[str, Any]:
    differences = record["differences"]
    relative = [row["relative"] for row in differences if not row["levels"]]
    levels = [row["absolute"] for row in differences if row["levels"]]
    size = sum((graph.parent / name).stat().st_size for name in record["files"])
    return {
        "seconds": record["seconds"],
        "peak_gb": round(record["peak_bytes"] / 1e9, 2),
        "file_gb": round(size / 1e9, 2),
        "largest_relative_difference": max(relative, default=None),
        "largest_difference_in_levels": max(levels, default=None),
        "findings": [str(finding) for finding in check_graph(graph)],
    }


def _print(graphs: dict[str, dict[str, Any]]) -> None:
    table = Table("graph", "seconds", "peak, GB", "file, GB", "difference from torch", "findings")
    for graph, row in graphs.items():
        relative, levels = row["largest_relative_difference"], row["largest_difference_in_levels"]
        difference = f"{levels:.0f} of 255" if relative is None else f"{relative:.1e}"
        cells = (f"{row[key]:.2f}" for key in ("seconds", "peak_gb", "file_gb"))
        table.add_row(graph, *cells, difference, str(len(row["findings"])))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
