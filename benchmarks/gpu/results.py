"""One result file for each step, whole or not there at all, with the conditions it was made under."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import conditions

PACKED = Path(__file__).parents[2] / "PACKED.json"
"""The commit of a packed copy, which has no git; see ``pack``."""


def result_path(out: Path, step: str) -> Path:
    """Where the step's result lies."""
    return out / f"{step}.json"


def read_result(out: Path, step: str) -> dict[str, Any] | None:
    """The step's result, None when there is none."""
    path = result_path(out, step)
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_result(out: Path, step: str, content: Mapping[str, Any]) -> Path:
    """Write the step's result in one piece: a process that is killed leaves the old one or none."""
    path = result_path(out, step)
    write_whole(path, (json.dumps({"step": step, **content}, indent=2) + "\n").encode())
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Write beside ``path`` and rename, so that no half file is ever seen under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def device_name(device: str) -> str:
    """The GPU's own name, or "CPU"."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def gpu_conditions(device: str) -> dict[str, Any]:
    """``benchmarks.conditions`` with the GPU, its driver and CUDA's versions."""
    stated = conditions()
    if PACKED.is_file() and stated["commit"] == "unknown":
        stated["commit"] = json.loads(PACKED.read_text())["commit"]
    stated["dirty"] = stated["commit"].endswith("-dirty")
    stated["gpu"] = _gpu() if device == "cuda" else None
    return stated


def _gpu() -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(0)
    return {
        "name": facts.name,
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "multiprocessors": facts.multi_processor_count,
        "capability": f"{facts.major}.{facts.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": _cudnn_version(),
    }


def _cudnn_version() -> int | None:
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().partition("\n")[0]
