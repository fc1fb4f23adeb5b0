"""How cost grows with steps, samples, picture size, weights and requests in flight, beside the FLOPs.

    python -m benchmarks.load.growth --repository build/demo-openvino-bf16 --bundle build/bundles/demo

One thing is varied at a time, against a real server over gRPC. FLOPs are counted by torch's own counter
over the bundle's graphs. Writes results/growth-<repository>.json and docs/pictures/growth.png.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from backdrop_client.load import Fields, Send, saturated
from backdrop_export.bundles import DENOISER, Bundle
from backdrop_export.loading import load_graph
from backdrop_export.samples import Size, graph_inputs, sample_inputs
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result
from benchmarks.load import doors, mix
from benchmarks.load.figures import figures
from benchmarks.load.plots import draw_growth

REPEATS = 3
IN_FLIGHT = (1, 2, 4, 8, 16, 32)
VARIED: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "steps": [{"num_inference_steps": steps} for steps in (20, 25, 50, 100)],
    "samples": [{"samples": samples} for samples in (1, 2, 3, 4)],
    "size": [{"size": size} for size in ((256, 192), (320, 192), (256, 256), (320, 256))],
    "weights": [
        {"cn_weight": edges, "ip_adapter_weight": look}
        for edges, look in ((0.0, 0.0), (0.9, 0.0), (0.0, 1.0), (0.9, 0.5))
    ],
    "guidance": [{"guidance_scale": scale} for scale in (1.0, 7.5)],
}
console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")] = Path(
        "build/demo-openvino-bf16"
    ),
    bundle: Annotated[Path, typer.Option(help="Its bundle, to count FLOPs.")] = Path(
        "build/bundles/demo"
    ),
    seconds: Annotated[float, typer.Option(help="Of each number in flight.", min=1)] = 9.0,
    pictures: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("docs/pictures"),
) -> None:
    """Measure, print a table, write the result file and the plot."""
    settings = LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer(settings, on_line=lambda line: None) as server,
        doors.grpc(server.grpc_url) as send,
    ):
        rows = measure(send, Bundle.open(bundle))
        together = in_flight(send, seconds)
    result = {
        "bundle_and_engine": repository.name,
        "repeats": REPEATS,
        "rows": rows,
        "seconds_of_each_number_in_flight": seconds,
        "in_flight": together,
    }
    path = write_result(f"growth-{repository.name}", result)
    draw_growth(result, pictures / "growth.png")
    show(result)
    console.print(f"written: {path}")


def measure(send: Send, bundle: Bundle) -> list[dict[str, Any]]:
    """A row for each value: medians of seconds billed and latency, and GFLOP."""
    send(request({}))  # warm-up
    rows = []
    for name, values in track([(n, v) for n, vs in VARIED.items() for v in vs], "values"):
        reports = [send(request(values)) for _ in range(REPEATS)]
        report = reports[0]
        gflop = count(bundle, report) / 1e9
        billed = statistics.median(float(one["seconds_billed"]) for one in reports)
        rows.append(
            {
                "varied": name,
                "value": {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()},
                "working_size": report["working_size"],
                "gflop": round(gflop, 2),
                "seconds_billed": round(billed, 4),
                "seconds": round(statistics.median(one["seconds"]["total"] for one in reports), 4),
                "gflop_per_second_billed": round(gflop / billed, 1),
            }
        )
    return rows


def in_flight(send: Send, seconds: float) -> list[dict[str, Any]]:
    """Equal requests, so many at once: pictures a second and what each was billed."""
    rows = []
    for count_ in track(IN_FLIGHT, "in flight"):
        told = figures(saturated(send, mix.equal(1), count_, seconds), seconds)
        names = ("requests", "pictures_per_second", "seconds_billed_per_picture", "latency_s")
        rows.append({"in_flight": count_, **{name: told[name] for name in names}})
    return rows


def request(values: Mapping[str, Any]) -> Fields:
    """An equal request with some fields changed; ``size``: of its photo."""
    fields = dict(next(mix.equal(1)))
    size = values.get("size")
    if size is not None:
        fields["image"] = mix.photo(*size)
    return fields | {name: value for name, value in values.items() if name != "size"}


def count(bundle: Bundle, report: Mapping[str, Any]) -> int:
    """FLOP of a request's graphs, 2 for a multiply-add, from its report."""
    width, height = report["working_size"]
    samples = len(report["product"])
    total = report["unet_evaluations"] * report["rows"] * flop(bundle, DENOISER, width, height)
    for graph in ("text_encoder", "image_encoder", "vae_encoder"):
        total += flop(bundle, graph, width, height)
    # The decoder's sample input holds two pictures.
    return int(total + samples * flop(bundle, "vae_decoder", width, height) / 2)


@functools.cache
def flop(bundle: Bundle, graph: str, width: int, height: int) -> int:
    """FLOP of one row of ``graph`` at a picture size."""
    module = _module(bundle, graph)
    arrays = sample_inputs(bundle, graph, Size(1, height, width))
    tensors = [torch.from_numpy(arrays[tensor.name]) for tensor in graph_inputs(graph)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*tensors)
    return int(counter.get_total_flops())


@functools.cache
def _module(bundle: Bundle, graph: str) -> torch.nn.Module:
    return load_graph(bundle, graph).eval()


def show(result: Mapping[str, Any]) -> None:
    """The table."""
    table = Table(title=result["bundle_and_engine"])
    for title in ("varied", "value", "GFLOP", "s billed", "s in all", "GFLOP/s billed"):
        table.add_column(title)
    for row in result["rows"]:
        value = ", ".join(str(v) for v in row["value"].values())
        numbers = (row[n] for n in ("gflop", "seconds_billed", "seconds"))
        rate = str(row["gflop_per_second_billed"])
        table.add_row(row["varied"], value, *(f"{n:.2f}" for n in numbers), rate)
    for row in result["in_flight"]:
        told = f"{row['pictures_per_second']:.2f} pictures/s"
        billed = f"{row['seconds_billed_per_picture']:.2f}"
        table.add_row("in flight", str(row["in_flight"]), "", billed, "", told)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
