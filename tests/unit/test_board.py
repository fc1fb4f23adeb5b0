"""Progress and cancelling in shared memory."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from backdrop_server.contract import MAX_IN_FLIGHT
from backdrop_server.errors import CancelledError, InvalidInputError, UnavailableError
from backdrop_server.triton.board import FORGET_AFTER, KEEP_ENDED, LEASE, Board, Stage

LIMIT = 8


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(tmp_path: Path, clock: Clock) -> Board:
    return Board(tmp_path / "board", clock)


def test_a_request_goes_through_its_stages(board: Board) -> None:
    assert board.status("a").stage is Stage.FREE
    board.enter("a", LIMIT)
    assert board.status("a").stage is Stage.WAITING
    board.run("a", total=49)
    preview = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    board.post_step("a", 3, 0.5, preview)
    status = board.status("a")
    assert (status.stage, status.step, status.total) == (Stage.RUNNING, 3, 49)
    assert status.preview is not None
    assert np.array_equal(status.preview, preview)
    board.move("a", Stage.FINISHING)
    assert board.count_live() == 1
    board.move("a", Stage.ENDED)
    assert board.count_live() == 0
    assert board.status("a").preview is None


def test_engine_seconds_stay_with_an_ended_one_and_begin_anew_with_the_next(
    board: Board, clock: Clock
) -> None:
    board.run("a", total=49)
    assert board.status("a").engine_seconds == 0
    for step, seconds in ((1, 0.125), (2, 0.375)):
        board.post_step("a", step, seconds)
        assert board.status("a").engine_seconds == seconds
    board.cancel("a")
    board.move("a", Stage.ENDED)
    clock.now += KEEP_ENDED - 1
    assert board.status("a").engine_seconds == 0.375
    board.enter("a", LIMIT)
    assert board.status("a").engine_seconds == 0
    assert board.status("unknown").engine_seconds == 0


def test_a_live_duplicate_is_refused_and_leaves_the_first_alone(board: Board) -> None:
    board.enter("a", LIMIT)
    with pytest.raises(InvalidInputError, match="request id"):
        board.enter("a", LIMIT)
    board.run("a", 5)
    with pytest.raises(InvalidInputError, match="request id"):
        board.run("a", 5)
    assert board.status("a").stage is Stage.RUNNING


def test_an_id_may_come_again_after_its_end(board: Board) -> None:
    board.enter("a", LIMIT)
    board.move("a", Stage.ENDED)
    board.enter("a", LIMIT)
    assert board.status("a").stage is Stage.WAITING


def test_no_more_than_the_limit_are_held(board: Board) -> None:
    for number in range(LIMIT):
        board.enter(f"r{number}", LIMIT)
    with pytest.raises(UnavailableError, match="8 requests"):
        board.enter("late", LIMIT)
    board.move("r0", Stage.ENDED)
    board.enter("late", LIMIT)


def test_cancel_of_a_waiting_one_is_seen_when_it_runs(board: Board) -> None:
    board.enter("a", LIMIT)
    assert board.cancel("a").stage is Stage.WAITING
    with pytest.raises(CancelledError):
        board.run("a", 5)
    assert board.count_live() == 0


def test_cancel_of_a_running_one_is_a_flag(board: Board) -> None:
    board.enter("a", LIMIT)
    board.run("a", 5)
    assert "a" not in board.cancelled()
    board.cancel("a")
    assert "a" in board.cancelled()


def test_cancel_before_it_comes_leaves_a_tombstone_that_is_used_once(board: Board) -> None:
    assert board.cancel("a").stage is Stage.FREE
    with pytest.raises(CancelledError):
        board.enter("a", LIMIT)
    board.enter("a", LIMIT)


def test_a_late_cancel_of_an_ended_one_leaves_no_tombstone(board: Board) -> None:
    board.enter("a", LIMIT)
    board.move("a", Stage.ENDED)
    assert board.cancel("a").stage is Stage.ENDED
    board.enter("a", LIMIT)
    assert "a" not in board.cancelled()


def test_old_entries_are_swept(board: Board, clock: Clock) -> None:
    board.enter("lost", LIMIT)
    board.enter("ended", LIMIT)
    board.move("ended", Stage.ENDED)
    board.cancel("never came")
    clock.now += KEEP_ENDED + 1
    assert board.status("ended").stage is Stage.FREE
    assert board.status("lost").stage is Stage.WAITING
    clock.now += LEASE
    assert board.status("lost").stage is Stage.FREE
    clock.now += FORGET_AFTER
    assert board.status("never came").stage is Stage.FREE


def test_one_that_died_behind_the_loop_gives_its_place_back(board: Board, clock: Clock) -> None:
    board.enter("a", LIMIT)
    board.run("a", 5)
    board.move("a", Stage.FINISHING)
    clock.now += LEASE + 1
    assert board.count_live() == 0


def test_those_queued_behind_a_full_loop_are_kept(board: Board, clock: Clock) -> None:
    for number in range(MAX_IN_FLIGHT):
        board.enter(f"r{number}", 64)
        board.run(f"r{number}", 5)
    board.enter("queued", 64)
    board.cancel("queued")
    for _ in range(30):
        clock.now += LEASE / 2
        for number in range(MAX_IN_FLIGHT):
            board.post_step(f"r{number}", 1, 0.5)
    assert board.status("queued").stage is Stage.WAITING
    assert "queued" in board.cancelled()
    board.move("r0", Stage.ENDED)
    clock.now += LEASE + 1
    assert board.status("queued").stage is Stage.FREE


def test_one_that_could_not_begin_gives_its_place_back(board: Board) -> None:
    board.enter("a", LIMIT)
    board.give_up("a")
    assert board.count_live() == 0
    board.enter("b", LIMIT)
    board.run("b", 5)
    board.give_up("b")
    assert board.status("b").stage is Stage.RUNNING


def test_tombstones_never_crowd_out_the_living(board: Board) -> None:
    board.enter("alive", LIMIT)
    for number in range(3000):
        board.cancel(f"unknown {number}")
    assert board.status("alive").stage is Stage.WAITING
    board.enter("new", LIMIT)
    assert board.count_live() == 2


def test_a_large_preview_is_thinned_to_fit(board: Board) -> None:
    board.enter("a", LIMIT)
    board.run("a", 5)
    board.post_step("a", 1, 0.5, np.full((256, 256, 3), 7, np.uint8))
    preview = board.status("a").preview
    assert preview is not None
    assert preview.shape == (128, 128, 3)
    assert (preview == 7).all()


def test_previews_of_two_requests_do_not_mix(board: Board) -> None:
    for name, value in (("a", 1), ("b", 2)):
        board.enter(name, LIMIT)
        board.run(name, 5)
        board.post_step(name, 1, 0.5, np.full((8, 8, 3), value, np.uint8))
    for name, value in (("a", 1), ("b", 2)):
        preview = board.status(name).preview
        assert preview is not None
        assert (preview == value).all()


def test_a_too_long_id_is_refused(board: Board) -> None:
    with pytest.raises(InvalidInputError, match="request id: it is too long"):
        board.enter("x" * 257, LIMIT)


def _enter_many(path: Path, name: str, entered: multiprocessing.Queue[int]) -> None:
    board, count = Board(path), 0
    for number in range(200):
        try:
            board.enter(f"{name}-{number}", 50)
            count += 1
        except UnavailableError:
            pass
    entered.put(count)


def test_the_limit_holds_across_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    entered: multiprocessing.Queue[int] = context.Queue()
    processes = [
        context.Process(target=_enter_many, args=(tmp_path / "board", name, entered))
        for name in "abc"
    ]
    for process in processes:
        process.start()
    total = sum(entered.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert total == 50
    assert Board(tmp_path / "board").count_live() == 50
