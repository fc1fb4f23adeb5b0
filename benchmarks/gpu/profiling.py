"""Where a step's time goes: kernels of one engine by share, and the time with no kernel at all."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.load import Request, plain_request
from benchmarks.gpu.loop import Painter
from benchmarks.gpu.rows import Bench, Row, attempt
from benchmarks.gpu.timing import seconds_of
from benchmarks.gpu.ways import chosen_engine, make_painter
from benchmarks.gpu.work import count_work

TOP = 25
PROFILED_STEPS = 3
CATEGORIES = (
    ("product", r"triton_tem|triton_mm"),  # Inductor's own templates
    ("elementwise", r"triton_poi"),
    ("norm", r"triton_(red|per)"),
    ("attention", r"flash|fmha|attention|sdp|mha"),
    (
        "copy",
        r"nchwtonhwc|nhwctonchw|memcpy|memset|copy|aten::(to|_to_copy|clone|cat|contiguous|fill_|zero_)$",
    ),
    ("norm", r"norm|rowwisemoments|welford|rstd|computefusedparams"),
    ("product", r"gemm|gemv|nvjet|cutlass|cublas|xmma|conv|addmm|bmm|::mm$|linear|winograd|fprop"),
    ("elementwise", r"elementwise|vectorized|silu|gelu|aten::(add|mul|div|sub)|catarray|upsample"),
)
"""What a kernel's name says it is; the first pattern that fits counts."""

Kernel = tuple[str, int, float]
"""Name, calls, seconds."""


def category_of(name: str) -> str:
    """product (matrix and convolution), attention, norm, elementwise, copy or other."""
    lowered = name.lower()
    return next((kind for kind, pattern in CATEGORIES if re.search(pattern, lowered)), "other")


def summarize(kernels: Iterable[Kernel], wall: float, flop: float) -> dict[str, Any]:
    """Shares of ``wall`` seconds by category and for the top kernels; what is left is idle.

    ``flop`` over the time in products and attention is what those kernels reach by themselves.
    """
    kernels = sorted(kernels, key=lambda kernel: -kernel[2])
    seconds: dict[str, float] = {}
    for name, _, time in kernels:
        seconds[category_of(name)] = seconds.get(category_of(name), 0.0) + time
    busy = sum(seconds.values())
    working = seconds.get("product", 0.0) + seconds.get("attention", 0.0)
    return {
        "wall_seconds": wall,
        "busy_seconds": busy,
        "shares": {kind: time / wall for kind, time in sorted(seconds.items())}
        | {"idle": max(0.0, 1 - busy / wall)},
        "tflop_per_second_in_products_and_attention": flop / working / 1e12 if working else None,
        "top": [
            {"kernel": name[:160], "calls": calls, "seconds": time, "share": time / wall}
            | {"category": category_of(name)}
            for name, calls, time in kernels[:TOP]
        ],
    }


def profiled(bench: Bench) -> dict[str, Any]:
    """The fastest engine's steps, with one request in flight and with eight."""
    engine, setup = chosen_engine(bench), bench.setup
    painter = functools.cache(lambda: make_painter(bench, engine))
    request = plain_request(setup.architecture, "DDIM")
    work = count_work(setup.architecture, request.width, request.height)

    def row(in_flight: int) -> Row:
        flop = PROFILED_STEPS * in_flight * request.halves * (work.unet + work.controlnet)
        kernels, wall = profile_steps(painter(), request, in_flight, setup.device)
        return {"steps": PROFILED_STEPS} | summarize(kernels, wall, flop)

    rows = [
        attempt({"way": f"profile {engine}", "in_flight": count}, functools.partial(row, count))
        for count in (1, 8)
    ]
    return {"engine": engine, "rows": rows}


def profile_steps(
    painter: Painter, request: Request, in_flight: int, device: str
) -> tuple[list[Kernel], float]:
    """Kernels of PROFILED_STEPS steps, and the wall time of as many that were not profiled."""
    wanted = 2 * PROFILED_STEPS + 2
    request = dataclasses.replace(request, steps=max(request.steps, wanted))
    states = [painter.start(request) for _ in range(in_flight)]

    def steps(count: int) -> None:
        for _ in range(count):
            painter.step(states)

    steps(2)  # what is compiled or recorded at first use
    wall = seconds_of(lambda: steps(PROFILED_STEPS), device)
    return _kernels(lambda: seconds_of(lambda: steps(PROFILED_STEPS), device), device), wall


def _kernels(run: Callable[[], object], device: str) -> list[Kernel]:
    on_gpu = device == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        run()
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = []
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if event.device_type == wanted and microseconds > 0:
            found.append((event.key, event.count, microseconds / 1e6))
    return found
