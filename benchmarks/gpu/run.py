"""Running steps: one in this process, or all that remain, each in a process of its own."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from backdrop_server.errors import SetupError
from benchmarks.gpu.architecture import architecture_named
from benchmarks.gpu.engines import find_repository
from benchmarks.gpu.report import print_rows, write_report
from benchmarks.gpu.results import gpu_conditions, read_result, write_result
from benchmarks.gpu.rows import Row
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.steps import STEPS, Content, run_step

ATTEMPTS = 3
"""How often ``all`` starts a step that is stopped for time: compilers' caches make each go further."""
GRACE = 20.0
"""Seconds that a step may take past its minutes, to write its result, before it is ended."""


def command(given: argparse.Namespace) -> int:
    """Do what the command line says; the exit status."""
    if given.step == "report":
        print(f"written: {write_report(given.out)}")
        return 0
    setup = _setup(given)
    if given.step == "all":
        return _run_all(given)
    begun = time.monotonic()
    attempts = {"attempts": _attempts(given.out, given.step) + 1}

    def keep(content: Content) -> Path:
        seconds = {"step_seconds": round(time.monotonic() - begun, 1)}
        return write_result(given.out, given.step, content | attempts | seconds)

    content = _step_content(given.step, setup, given.minutes, keep)
    path = keep(content)
    print_rows(given.step, content)
    print(f"written: {path}")
    return 0


def _setup(given: argparse.Namespace) -> Setup:
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SetupError("this machine has no CUDA device that torch can use; try --device cpu")
    return Setup(
        architecture_named(given.size),
        given.device,
        given.precision,
        given.out,
        given.work,
        given.repository,
        given.engine,
    )


def _step_content(
    name: str, setup: Setup, minutes: float, keep: Callable[[Content], object]
) -> Content:
    try:
        return run_step(name, setup, minutes, keep)
    except Exception as error:  # a step that failed as a whole stays in the table too
        traceback.print_exc()
        return failed_content(setup.device, name, f"{type(error).__name__}: {error}")


def failed_content(device: str, name: str, reason: str) -> Content:
    """The result of a step that gave no rows."""
    return {"conditions": gpu_conditions(device), "rows": [_failed_row(name, reason)]}


def _failed_row(name: str, reason: str) -> Row:
    status = "absent" if reason.startswith("AbsentError") else "failed"
    return {"way": STEPS[name].what, "status": status, "reason": reason.partition("\n")[0]}


def _attempts(out: Path, name: str) -> int:
    return int((read_result(out, name) or {}).get("attempts", 0))


def remaining(given: argparse.Namespace) -> list[str]:
    """Steps without a result, those that were ended half way, those that lacked a repository."""
    names = []
    for name in STEPS:
        result = read_result(given.out, name)
        stopped = result and result.get("incomplete") and result["attempts"] < ATTEMPTS
        if result is None or stopped or _has_a_repository_now(given, name, result):
            names.append(name)
    return names


def _has_a_repository_now(given: argparse.Namespace, name: str, result: Content) -> bool:
    """Whether a step whose rows are all absent was run without the repository there now is for it."""
    rows, engine = result["rows"], name.removeprefix("ours-")
    if not rows or any(row["status"] != "absent" for row in rows):
        return False
    found = find_repository(given.repository, engine, given.precision)
    return found is not None and result.get("repository") != str(found.resolve())


def _run_all(given: argparse.Namespace) -> int:
    end = time.monotonic() + given.minutes * 60
    for index, name in enumerate(remaining(given)):
        left = (end - time.monotonic()) / 60
        enough = STEPS[name].minutes if given.size == "full" else 0.0
        if index > 0 and left < enough:  # the first always gets its chance
            break
        print(f"--- {name}: {STEPS[name].what} ({left:.1f} minutes left)", flush=True)
        _run_apart(given, name, left)
    left_over = remaining(given)
    print(f"written: {write_report(given.out)}")
    if left_over:
        print(f"steps that remain: {', '.join(left_over)}; run the same command again")
        return 3
    print("every step has its result")
    return 0


def _run_apart(given: argparse.Namespace, name: str, minutes: float) -> None:
    """A process of its own: it gives back all memory, and may crash or be ended by itself."""
    words = [sys.executable, "-m", "benchmarks.gpu", name]
    for option in ("out", "size", "device", "precision", "work", "repository", "engine"):
        value = getattr(given, option)
        words += [] if value is None else [f"--{option}", str(value)]
    allowed = max(minutes * 60 - GRACE, 1.0)
    words += ["--minutes", f"{allowed / 60:.3f}"]
    before = _attempts(given.out, name)
    status = _ended_status(words, allowed + GRACE / 2)
    stopped = status is None
    reason = (
        f"ended after {minutes:.1f} minutes; run it again: compiled parts are kept"
        if stopped
        else f"the step's process ended with status {status}"
    )
    result = read_result(given.out, name)
    if result is None or result["attempts"] == before:  # it wrote nothing
        content = failed_content(given.device, name, reason)
        content |= {"attempts": before + 1, "incomplete": stopped}
        write_result(given.out, name, content)
    elif result.get("incomplete"):
        rows = [*result["rows"], _failed_row(name, reason)]
        write_result(given.out, name, result | {"rows": rows, "incomplete": stopped})


def _ended_status(words: list[str], seconds: float) -> int | None:
    """The exit status of ``words``; None when it was ended, its own children too, for time."""
    process = subprocess.Popen(words, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
