"""One engine at a time has the cores, in whichever process it is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from backdrop_server.triton.board import Board
from backdrop_server.triton.cores import Cores, cores_for

HELD = 0.5
CONTEXT = multiprocessing.get_context("spawn")


def hold(board: Path, has_them: Event, seconds: float) -> None:
    with Cores(board).taken():
        has_them.set()
        time.sleep(seconds)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return tmp_path / "board"


def begin(board: Path, seconds: float) -> multiprocessing.context.SpawnProcess:
    """Another process that has the cores already."""
    has_them = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(board, has_them, seconds))
    process.start()
    assert has_them.wait(30)
    return process


def test_another_process_waits_until_they_are_given_back(board: Path) -> None:
    cores, process = Cores(board), begin(board, HELD)
    begun = time.monotonic()
    with cores.taken():
        assert time.monotonic() - begun > HELD / 2
        process.join(30)
        assert process.exitcode == 0


def test_who_dies_holds_nothing(board: Path) -> None:
    cores, process = Cores(board), begin(board, 600)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    begun = time.monotonic()
    with cores.taken():
        assert time.monotonic() - begun < 10
    process.join(30)


def test_the_board_is_used_meanwhile(board: Path) -> None:
    """The two locks on one file do not know of each other."""
    own, process = Board(board), begin(board, 600)
    try:
        own.enter("r1", 1)
        assert own.count_live() == 1
        own.close()
    finally:
        process.kill()
        process.join(30)


def test_an_engine_on_a_device_takes_none(board: Path) -> None:
    process = begin(board, 600)
    try:
        with cores_for("cuda:0", board)():
            pass
        assert process.is_alive()
    finally:
        process.kill()
        process.join(30)
