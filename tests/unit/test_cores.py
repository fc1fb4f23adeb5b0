"""One engine at a time has the cores, in whichever process it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from backdrop_server.triton.board import Board
from backdrop_server.triton.cores import Cores, cores_for
from tests.unit.held_cores import held

LONG = 600.0


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return tmp_path / "board"


def test_another_process_waits_until_they_are_given_back(board: Path) -> None:
    cores = cores_for("cpu", board)
    with held(board, 0.5) as process:
        begun = time.monotonic()
        with cores():
            assert time.monotonic() - begun > 0.25
            process.join(30)
            assert process.exitcode == 0


def test_who_dies_holds_nothing(board: Path) -> None:
    cores = Cores(board)
    with held(board, LONG) as process:
        process.kill()
        with cores.taken():
            pass  # comes here before LONG is over


def test_the_board_is_used_meanwhile(board: Path) -> None:
    """The two locks on one file do not know of each other."""
    own = Board(board)
    with held(board, LONG):
        own.enter("r1", 1)
        assert own.count_live() == 1
    own.close()


def test_an_engine_on_a_device_takes_none(board: Path) -> None:
    with held(board, LONG) as process, cores_for("cuda:0", board)():
        assert process.is_alive()
