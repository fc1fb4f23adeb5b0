"""Timing the engines of a repository: what the server bills and estimates with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from backdrop_export.bundles import DENOISER, Bundle
from backdrop_export.engines import Arrays, EngineKind, load_network
from backdrop_export.external_data import graph_files
from backdrop_export.samples import Size, sample_inputs
from backdrop_server.costs import Costs
from backdrop_server.engines.engine import DeviceEngine, Engine
from backdrop_server.engines.loading import load_engine
from backdrop_server.engines.padding import padding_rows, run_padded
from backdrop_server.working_sizes import working_size

RUNS = 5
MOST_SECONDS = 10.0
"""After which no further run is begun."""
ROWS = 2
"""Of the UNet evaluation that is timed: one sample with guidance."""
Run = Callable[[], object]


def measure_engine(kind: EngineKind, bundle: Bundle, graph: str, path: Path) -> float:
    """Median seconds of one call of the engine file ``path`` (any suffix) at the native size.

    One request of one sample, of the denoiser ROWS rows.
    """
    rows = ROWS if graph == DENOISER else 1
    width, height = _native_size(bundle)
    inputs = sample_inputs(bundle, graph, Size(rows, height, width))
    if graph == "vae_decoder":
        inputs = {name: array[:, :1] for name, array in inputs.items()}
    return median_seconds(_runner(kind, path, inputs))


def costs_of(bundle: Bundle, seconds: Mapping[str, float]) -> Costs:
    """The costs from what ``measure_engine`` found for each graph."""
    native_pixels = bundle.facts().native_pixels
    width, height = _native_size(bundle)
    to_native = native_pixels / (width * height)
    return Costs(
        native_pixels,
        text_encoder=seconds["text_encoder"],
        image_encoder=seconds["image_encoder"],
        vae_encoder=seconds["vae_encoder"] * to_native,
        vae_decoder=seconds["vae_decoder"] * to_native,
        row=seconds[DENOISER] / ROWS * to_native,
    )


def median_seconds(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """Of RUNS runs after one to warm up; of fewer where they take more than MOST_SECONDS together.

    A first run that is longer than that is itself the answer: warming up is little of it.
    """
    first = _seconds(run, clock)
    if first > MOST_SECONDS:
        return first
    counted: list[float] = []
    while len(counted) < RUNS and sum(counted) < MOST_SECONDS:
        counted.append(_seconds(run, clock))
    return statistics.median(counted)


def _seconds(run: Run, clock: Callable[[], float]) -> float:
    begun = clock()
    run()
    return clock() - begun


def _native_size(bundle: Bundle) -> tuple[int, int]:
    """Width and height of the working size of a square photo."""
    return working_size(1, 1, bundle.facts().native_pixels)


def _runner(kind: EngineKind, path: Path, inputs: Arrays) -> Run:
    """One call, over when it returns; as the server makes it, where memory allows that here."""
    if kind.backend == "onnxruntime" and _is_large(path) and not _has_cuda():
        network = load_network(kind, path)  # without optimisation, as it was compared
        return lambda: network(inputs)
    engine = load_engine(kind.backend, path, kind.precision)
    if engine.device == "cpu":
        return lambda: run_padded(engine, inputs)
    return _device_runner(engine, inputs)


def _is_large(path: Path) -> bool:
    return len(graph_files(path.with_suffix(".onnx"))) > 1


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _device_runner(engine: Engine, inputs: Arrays) -> Run:
    """With the inputs on the device, which is idle at both ends. Built, not run: no GPU was at hand."""
    import torch

    padding = padding_rows(engine, len(next(iter(inputs.values()))))
    tensors = {
        name: torch.from_numpy(np.concatenate([array, np.repeat(array[-1:], padding, 0)])).to(
            engine.device
        )
        for name, array in inputs.items()
    }

    def run() -> None:
        cast(DeviceEngine, engine).run_on_device(tensors)
        torch.cuda.synchronize()

    run()  # some compile at their first call, for longer than a long run takes
    return run
