"""The conditions that every result file states: hardware, versions, commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "onnxruntime",
    "openvino",
    "nvidia-pytriton",
    "numpy",
)


_VECTOR_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What tells one processor's speed from another's of the same name."""


def conditions() -> dict[str, Any]:
    """Processor, cores, memory in GiB, versions, commit and date of this run."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "cpu": _cpu_line("model name") or platform.machine(),
        "vector_units": [unit for unit in _VECTOR_UNITS if unit in _cpu_line("flags").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _gpu_name(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def write_result(name: str, result: Mapping[str, Any]) -> Path:
    """Write ``results/<name>.json`` with the conditions first."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"conditions": conditions(), **result}, indent=2) + "\n")
    return path


def _version(name: str) -> str | None:
    """None where a package is not installed: a bare machine has only what it runs."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The commit that is checked out, with ``-dirty`` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return "unknown"
    return done.stdout.strip() or "unknown"


def _gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _cpu_line(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""
