"""Real processes that die, stop and grow, seen from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from backdrop_server.triton.board import Board, Stage
from backdrop_server.triton.hangs import LEAST_SECONDS, StepWatch
from backdrop_server.triton.vitals import STOPPED_FOR, Ailment, Vitals, model_of

SLEEP = "import time; time.sleep(600)"
FAMILY = """
import subprocess, sys, time
for model in sys.argv[1:]:
    subprocess.Popen(["/x/triton_python_backend_stub", model], executable=sys.executable)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Clock:
    """Time that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def family(tmp_path: Path) -> Iterator[psutil.Process]:
    """A process with three children, two of them named like stubs."""
    models = [tmp_path / name / "1" / "model.py" for name in ("denoise", "preprocess")]
    for model in models:
        model.parent.mkdir(parents=True)
        model.write_text(SLEEP)
    command = [sys.executable, "-c", FAMILY, *map(str, models)]
    with subprocess.Popen(command, start_new_session=True) as parent:
        process = psutil.Process(parent.pid)
        assert within(20, lambda: len(process.children()) == 3)
        assert within(20, lambda: all(len(c.cmdline()) > 1 for c in process.children()))
        try:
            yield process
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def stub_of(family: psutil.Process, model: str) -> psutil.Process:
    return next(child for child in family.children() if model_of(child) == model)


def test_a_sound_family_has_no_ailment(family: psutil.Process) -> None:
    vitals = Vitals(family.pid)
    assert sorted(vitals.stubs.values()) == ["the stub of denoise", "the stub of preprocess"]
    assert vitals.look() is None
    assert 5 * 2**20 < vitals.memory() < 200 * 2**20


@pytest.mark.parametrize("model", ["denoise", "preprocess"])
def test_a_dead_stub_is_seen(family: psutil.Process, model: str) -> None:
    vitals = Vitals(family.pid)
    stub = stub_of(family, model)
    stub.kill()  # nobody waits for it: it stays as a zombie
    assert within(5, lambda: vitals.look() is not None)
    assert vitals.look() == Ailment(f"the stub of {model}", stub.pid, "has died")


def test_a_dead_server_is_seen(family: psutil.Process) -> None:
    vitals = Vitals(family.pid)
    family.kill()
    assert within(5, lambda: vitals.look() is not None)
    assert str(vitals.look()) == f"tritonserver (process {family.pid}) has died"


def test_a_stopped_stub_is_ill_after_a_while_and_well_when_it_goes_on(
    family: psutil.Process,
) -> None:
    clock = Clock()
    vitals = Vitals(family.pid, clock)
    stub = stub_of(family, "denoise")
    stub.suspend()
    assert within(5, lambda: stub.status() == psutil.STATUS_STOPPED)
    assert vitals.look() is None
    clock.now += STOPPED_FOR
    assert vitals.look() == Ailment("the stub of denoise", stub.pid, "stands still")
    stub.resume()
    assert within(5, lambda: stub.status() != psutil.STATUS_STOPPED)
    assert vitals.look() is None
    stub.suspend()
    assert within(5, lambda: stub.status() == psutil.STATUS_STOPPED)
    assert vitals.look() is None, "it begins anew"


def test_a_server_that_is_gone_is_not_watched() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert Vitals(ended.pid).look() is None


# --- hangs ----------------------------------------------------------------------------------------


def test_no_step_for_long_is_a_hang_but_waiting_is_not(tmp_path: Path) -> None:
    clock = Clock()
    board, watch = Board(tmp_path / "board"), StepWatch(tmp_path / "board", clock)
    board.enter("a", 4)
    clock.now += 10 * LEAST_SECONDS
    assert not watch.hangs(), "it has not begun"
    board.run("a", 20)
    assert not watch.hangs()
    for step in range(1, 6):
        clock.now += 1.0
        board.post_step("a", step, 0.1, np.zeros((2, 2, 3), np.uint8))
        assert not watch.hangs()
    assert watch.limit == 50.0
    clock.now += 50.0
    assert not watch.hangs()
    clock.now += 0.1
    assert watch.hangs()
    board.move("a", Stage.FINISHING)
    assert not watch.hangs()


def test_without_a_usual_step_the_least_seconds_count(tmp_path: Path) -> None:
    clock = Clock()
    board, watch = Board(tmp_path / "board"), StepWatch(tmp_path / "board", clock)
    board.run("a", 20)
    assert not watch.hangs()
    clock.now += LEAST_SECONDS + 0.1
    assert watch.hangs()
