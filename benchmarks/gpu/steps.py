"""The steps of the bench, in the order in which ``all`` runs them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.collection import collection
from benchmarks.gpu.compilers import GUIDE, LIGHT
from benchmarks.gpu.figures import Yardstick, price_of
from benchmarks.gpu.networks import PRECISIONS
from benchmarks.gpu.profiling import profiled
from benchmarks.gpu.results import device_name, gpu_conditions
from benchmarks.gpu.rows import Bench
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import Deadline, matrix_ceiling, seconds_of
from benchmarks.gpu.ways import batching, build_packages, compiled, eager, mixed, ours, reference

Content = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One result file: what it holds and how it is made."""

    what: str
    run: Callable[[Bench], Content]
    minutes: float = 1.0
    """The fewest minutes that are worth starting it with, at full size."""


def _ceiling(bench: Bench) -> Content:
    """The matrix product in both 16-bit types, and what a copy moves (read and written)."""
    device = bench.setup.device
    elements = 2**30 if device == "cuda" else 2**20
    source = torch.rand(elements, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(seconds_of(lambda: target.copy_(source), device) for _ in range(10))
    products = [matrix_ceiling(device, PRECISIONS[name]) for name in ("fp16", "bf16")]
    moved = 2 * source.nbytes
    return {"products": products, "copy_bytes_per_second": moved / seconds, "rows": []}


def _ours(engine: str) -> Step:
    return Step(f"our loop, engine {engine}", functools.partial(ours, engine=engine), 2)


STEPS: dict[str, Step] = {
    "ceiling": Step("the device's matrix and copy ceilings", _ceiling),
    "reference": Step("latents of eager diffusers in fp32", reference, 2),
    "eager": Step("rival 1: diffusers, eager", eager, 2),
    "ours-torch": _ours("torch"),
    "build-aotinductor": Step("compile the AOTInductor packages", build_packages, 7),
    "ours-aotinductor": _ours("aotinductor"),
    "ours-onnxruntime-cuda": _ours("onnxruntime-cuda"),
    "ours-onnxruntime-tensorrt": _ours("onnxruntime-tensorrt"),
    "ours-tensorrt": _ours("tensorrt"),
    "batching": Step("our loop, 1, 2, 4, 8 requests in flight", batching, 3),
    "profile": Step("kernels of a step by share", profiled, 1),
    "compile-light": Step(
        "rival 2 without the search for the fastest kernels",
        functools.partial(compiled, on_gpu=LIGHT),
        4,
    ),
    "compile": Step(
        "rival 2: diffusers, torch.compile as its guide has it",
        functools.partial(compiled, on_gpu=GUIDE),
        7,
    ),
    "mixed": Step("our loop, a mixed load", mixed, 4),
    "triton-inputs": Step("what Triton's collection of inputs costs a step", collection),
    "ours-compile": dataclasses.replace(_ours("compile"), minutes=4),
}


def run_step(
    name: str,
    setup: Setup,
    minutes: float,
    keep: Callable[[Content], object] = lambda content: None,
) -> Content:
    """Run one step; its content begins with the conditions and the ceiling of this run.

    ``keep`` is given the content so far after each row, marked ``incomplete``.
    """
    deadline = Deadline(minutes)
    ceiling = matrix_ceiling(setup.device, setup.dtype)
    price = price_of(device_name(setup.device))
    stated = {
        "conditions": gpu_conditions(setup.device),
        "settings": {
            "size": setup.architecture.name,
            "side": setup.architecture.side,
            "device": setup.device,
            "precision": setup.precision,
            "minutes": minutes,
        },
        "ceiling": ceiling,
        "price": price and dataclasses.asdict(price),
    }
    bench = Bench(
        setup,
        deadline,
        Yardstick(ceiling["tflop_per_second"] * 1e12, price),
        lambda rows: keep({**stated, "incomplete": True, "rows": rows}),
    )
    return {**stated, **STEPS[name].run(bench)}
