"""Pictures per second of equal requests in flight together against one after another.

    python -m benchmarks.batching --repository build/demo-openvino-fp32

Same server, same run, the two ways in turn; medians over the rounds.
"""

from __future__ import annotations

import io
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import tritonclient.grpc as grpcclient
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backdrop_client import examples
from backdrop_client.triton import Replaced, replace
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result

console = Console()


def main(
    repository: Annotated[Path, typer.Option(help="A built repository.")] = Path(
        "build/demo-openvino-fp32"
    ),
    in_flight: Annotated[int, typer.Option(help="Requests in flight together.")] = 8,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each way.")] = 5,
) -> None:
    """Measure, print a table, and write the result file."""
    fields = _fields()
    with TritonServer(
        LaunchSettings(repository, http_port=0, grpc_port=0, metrics_port=0),
        on_line=lambda line: None,
    ) as server:
        client = grpcclient.InferenceServerClient(server.grpc_url)
        measured = _measure(client, fields, in_flight, rounds)
        client.close()
    result = {
        "bundle_and_engine": repository.name,
        "request": {name: value for name, value in fields.items() if isinstance(value, (str, int))},
        "in_flight": in_flight,
        "rounds": rounds,
        **measured,
    }
    path = write_result(f"batching-{repository.name}", result)
    _print(result)
    console.print(f"written: {path}")


def _fields() -> dict[str, Any]:
    return {
        "image": _example("product.jpg"),
        "ref_image": _example("reference.jpg"),
        "prompt": "a bottle of soap on a wooden table, beach at sunset",
        "scheduler": "Euler",
        "num_inference_steps": 25,
    }


def _example(name: str) -> bytes:
    """An example at 512 px, so that picture codecs do not hide the loop."""
    image = Image.open(examples.path(name)).convert("RGB")
    image.thumbnail((512, 512))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _measure(client: Any, fields: dict[str, Any], in_flight: int, rounds: int) -> dict[str, Any]:
    def ask(seed: int) -> Replaced:
        return replace(client, grpcclient, seed=seed, **fields)

    together, alone, reports, latencies = [], [], [], []
    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(ask, range(in_flight)))  # warm-up
        for number in track(range(rounds), "rounds", console=console):
            seeds = range(number * in_flight, (number + 1) * in_flight)
            begun = time.perf_counter()
            answers = list(pool.map(ask, seeds))
            together.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            solo = [ask(seed) for seed in seeds]
            alone.append(time.perf_counter() - begun)
            reports += [answer.report for answer in answers]
            latencies += [answer.report["seconds"]["total"] for answer in solo]
    ratios = [a / t for a, t in zip(alone, together, strict=True)]
    return {
        "together": _rate(together, in_flight),
        "one_after_another": _rate(alone, in_flight),
        "speedup": _spread(ratios),
        "solo_seconds": _spread(latencies),
        "mean_rows_together": statistics.mean(r["mean_rows_together"] for r in reports),
        "engine_calls_a_picture": statistics.mean(r["engine_calls"] for r in reports),
    }


def _rate(seconds: list[float], pictures: int) -> dict[str, Any]:
    return {
        "seconds": _spread(seconds),
        "pictures_per_second": pictures / statistics.median(seconds),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def _print(result: dict[str, Any]) -> None:
    title = result["bundle_and_engine"]
    table = Table("way", "pictures/s", "seconds (median, min to max)", title=title)
    for way in ("one_after_another", "together"):
        seconds = result[way]["seconds"]
        spread = f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})"
        table.add_row(way.replace("_", " "), f"{result[way]['pictures_per_second']:.3f}", spread)
    console.print(table)
    speedup = result["speedup"]["median"]
    console.print(f"{result['in_flight']} in flight: {speedup:.2f} x the pictures/s")


if __name__ == "__main__":
    typer.run(main)
