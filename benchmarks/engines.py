"""Milliseconds of one UNet evaluation for each engine: which one is the default on a CPU.

    python -m benchmarks.engines --bundle build/bundles/demo

Exports what is missing, then times `unet_controlnet` at the bundle's native size, each engine in a
process of its own, in turn.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backdrop_export.bundles import DENOISER, Bundle
from backdrop_export.repository import export_repository
from backdrop_export.samples import Size, sample_inputs
from backdrop_server.engines.engine import Engine, Precision
from backdrop_server.engines.loading import load_engine
from benchmarks.conditions import write_result

ENGINES = ("onnxruntime-fp32", "openvino-fp32", "openvino-bf16")
ROWS = (2, 8, 16)
EVALUATIONS = 5
console = Console()


def main(
    bundle: Annotated[Path, typer.Option(help="A bundle's folder.")] = Path("build/bundles/demo"),
    rounds: Annotated[int, typer.Option(help="Processes of each engine.")] = 3,
) -> None:
    """Measure, print a table, and write the result file."""
    folders = {
        name: export_repository(bundle, name, Path("build")) / "denoise" / "1" for name in ENGINES
    }
    times: dict[str, dict[str, list[float]]] = {str(rows): {} for rows in ROWS}
    outputs = {}
    for _ in track(range(rounds), "rounds", console=console):
        for name, folder in folders.items():
            measured, outputs[name] = _alone(name, folder, bundle)
            for rows, values in measured.items():
                times[rows].setdefault(name, []).extend(values)
    result = {
        "bundle": bundle.name,
        "milliseconds": {
            rows: {name: _spread(values) for name, values in engines.items()}
            for rows, engines in times.items()
        },
        "psnr_to_onnxruntime_db": _differences(outputs),
    }
    path = write_result(f"engines-{bundle.name}", result)
    _print(result)
    console.print(f"written: {path}")


def _alone(
    name: str, folder: Path, bundle: Path
) -> tuple[dict[str, list[float]], npt.NDArray[np.float32]]:
    """Run one engine in a process of its own: another's idle threads would spin beside it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_time, name, folder, bundle).result()


def _time(
    name: str, folder: Path, bundle: Path
) -> tuple[dict[str, list[float]], npt.NDArray[np.float32]]:
    """Milliseconds of each counted evaluation by number of rows, and the noise for two rows."""
    kind, _, precision = name.rpartition("-")
    engine = load_engine(kind, folder / "unet_controlnet", Precision(precision))
    opened = Bundle.open(bundle)
    times: dict[str, list[float]] = {}
    for rows in ROWS:
        batch = _batch(opened, rows)
        engine.run(batch)  # warm-up: the engine plans for a new shape
        times[str(rows)] = [_milliseconds(engine, batch) for _ in range(EVALUATIONS)]
    noise: npt.NDArray[np.float32] = engine.run(_batch(opened, 2))["noise_pred"]
    return times, noise


def _milliseconds(engine: Engine, batch: dict[str, npt.NDArray[Any]]) -> float:
    begun = time.perf_counter()
    engine.run(batch)
    return 1000 * (time.perf_counter() - begun)


def _batch(bundle: Bundle, rows: int) -> dict[str, npt.NDArray[Any]]:
    side = round(bundle.facts().native_pixels ** 0.5)
    return sample_inputs(bundle, DENOISER, Size(rows, side, side), seed=rows)


def _differences(outputs: dict[str, npt.NDArray[np.float32]]) -> dict[str, float]:
    """PSNR of the predicted noise, its peak as the signal."""
    exact = outputs["onnxruntime-fp32"]
    peak = float(np.abs(exact).max())
    return {
        name: round(float(20 * np.log10(peak / np.sqrt(np.mean((output - exact) ** 2)))), 1)
        for name, output in outputs.items()
        if output is not exact
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def _print(result: dict[str, Any]) -> None:
    table = Table("engine", *(f"{rows} rows, ms" for rows in ROWS), title=result["bundle"])
    for name in ENGINES:
        medians = [result["milliseconds"][str(rows)][name]["median"] for rows in ROWS]
        table.add_row(name, *(f"{median:.1f}" for median in medians))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
