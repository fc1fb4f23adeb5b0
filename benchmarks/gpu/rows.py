"""Rows of the table: what was timed, how it went, and its figures; a row that failed stays."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.engines import AbsentError
from benchmarks.gpu.figures import Yardstick, error_of, figures
from benchmarks.gpu.results import write_whole
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import (
    Deadline,
    OutOfTimeError,
    peak_memory,
    reset_peak_memory,
    timed_runs,
)

Row = dict[str, Any]
REFERENCE = "reference.npz"


@dataclasses.dataclass(frozen=True)
class Bench:
    """A step under way: what it is run with, until when, and what it is measured against."""

    setup: Setup
    deadline: Deadline
    yardstick: Yardstick
    keep: Callable[[list[Row]], object] = lambda rows: None
    """Told of the rows after each one, so that a step that is ended has not worked for nothing."""

    def rows(self, attempts: Iterable[Callable[[], Row]]) -> list[Row]:
        """Make the rows one after another, keeping what is there."""
        made: list[Row] = []
        for make in attempts:
            made.append(make())
            self.keep(list(made))
        return made


def attempt(label: Row, make: Callable[[], Row]) -> Row:
    """The row of ``label`` with what ``make`` gives, or with the reason why there is nothing."""
    try:
        return {**label, "status": "ok", **make()}
    except AbsentError as error:
        return {**label, "status": "absent", "reason": str(error)}
    except OutOfTimeError as error:
        return {**label, "status": "failed", "reason": str(error)}
    except Exception as error:  # a bench keeps its failed rows, whatever failed
        first_line = str(error).strip().partition("\n")[0]
        return {**label, "status": "failed", "reason": f"{type(error).__name__}: {first_line}"}


def timed_row(bench: Bench, paint: Callable[[], object], pictures: int, flop: float) -> Row:
    """Time ``paint``, which makes ``pictures`` pictures that need ``flop`` together."""
    device = bench.setup.device
    reset_peak_memory(device)
    warm_ups, counted = timed_runs(paint, device, bench.deadline, *bench.setup.runs)
    row = figures(counted, pictures, flop, bench.yardstick)
    return row | {"warm_up_seconds": warm_ups, "memory": peak_memory(device)}


def write_reference(out: Path, latents: dict[str, torch.Tensor]) -> None:
    """Keep the fp32 latents by sampler."""
    content = io.BytesIO()
    np.savez(content, **{name: value.cpu().float().numpy() for name, value in latents.items()})
    write_whole(out / REFERENCE, content.getvalue())


def read_reference(out: Path, sampler: str) -> torch.Tensor | None:
    """The fp32 latents of ``sampler``; None when that step was not run."""
    path = out / REFERENCE
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return torch.from_numpy(arrays[sampler]) if sampler in arrays else None


def reference_error(out: Path, sampler: str, latents: torch.Tensor) -> Row | None:
    """How far ``latents`` are from the reference's; None when there is no reference."""
    reference = read_reference(out, sampler)
    return None if reference is None else error_of(latents, reference)
