"""Clocks: warm-up apart, the device idle before both readings, a time limit that is kept."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

RUNS = 5
WARM_UPS = 2


class OutOfTimeError(Exception):
    """The step's minutes were used up before enough runs were counted."""


class Deadline:
    """The end of a step's minutes."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + minutes * 60

    @property
    def seconds_left(self) -> float:
        """May be negative."""
        return self._end - time.monotonic()

    def require(self, seconds: float, what: str) -> None:
        """Raise OutOfTimeError unless ``seconds`` are left."""
        if self.seconds_left < seconds:
            raise OutOfTimeError(f"out of time before {what}")


def synchronize(device: str) -> None:
    """Wait until the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object], device: str) -> float:
    """How long one call takes, the device idle at both ends."""
    synchronize(device)
    begun = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - begun


def timed_runs(
    run: Callable[[], object],
    device: str,
    deadline: Deadline,
    warm_up_runs: int = WARM_UPS,
    runs: int = RUNS,
) -> tuple[list[float], list[float]]:
    """Seconds of the warm-ups, which hold what is compiled at first use, and of the counted runs.

    Raises OutOfTimeError as soon as ``runs`` runs will not fit any more.
    """
    warm_ups = []
    for _ in range(warm_up_runs):
        deadline.require(0, "the warm-up")
        warm_ups.append(seconds_of(run, device))
    counted: list[float] = []
    expected = warm_ups[-1]
    while len(counted) < runs:
        deadline.require(expected, f"{runs} counted runs; {len(counted)} were made")
        counted.append(seconds_of(run, device))
        expected = statistics.median(counted)
    return warm_ups, counted


def reset_peak_memory(device: str) -> None:
    """Begin a new peak."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> dict[str, Any]:
    """GiB that torch held at most, and that the whole device holds now (engines beside torch)."""
    if device != "cuda":
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"process_gib": round(kib / 2**20, 3)}
    free, total = torch.cuda.mem_get_info()
    return {
        "torch_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "torch_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "device_gib": round((total - free) / 2**30, 2),
    }


def matrix_ceiling(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """FLOP/s of a dense product of random matrices, 8192³ on a GPU, small on a CPU; the best of 10."""
    side = 8192 if device == "cuda" else 512
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    seconds = [seconds_of(lambda: left @ right, device) for _ in range(10)]
    flop = 2 * side**3
    return {
        "side": side,
        "dtype": str(dtype).removeprefix("torch."),
        "tflop_per_second": flop / min(seconds) / 1e12,
        "tflop_per_second_median": flop / statistics.median(seconds) / 1e12,
    }
