"""Triton's entry of the loop, on the host and one step ahead of a device, without a server.

Triton's side and the device's queue are stand-ins; the states, the samplers, the board and the
entry are the real ones. The device's queue does nothing until it is waited for.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits
from backdrop_server.triton.board import SHM_FOLDER, Board, Stage
from tests.unit import triton_stub
from tests.unit.denoise_loop import LIMITS, DeviceLane, Loop, ToyEngine, request, three
from tests.unit.held_cores import held
from tests.unit.test_denoise import FACTS
from tests.unit.test_edge_encoder import edge_encoder_weights
from tests.unit.test_residence import FakeQueue
from tests.unit.test_schedulers import SDXL

MakeLoop = Callable[..., Loop]
HELD = 1.0


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The entry's module, imported as inside Triton."""
    modules = ("denoise", "beginning", "gathering", "metrics", "tensors")
    names = [f"backdrop_server.triton.{module}" for module in modules]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_stub.module())
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(names[0])
    for name in names:
        sys.modules.pop(name, None)


def gathering() -> ModuleType:
    """The module of the loop made last that says who steps."""
    return sys.modules["backdrop_server.triton.gathering"]


@pytest.fixture
def make_loop(entry: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MakeLoop]:
    """A loop over the toy engine; ``queue``: the device that it is to stay ahead of; ``stay``: for how
    long a call may go on, by default for one step; ``reunion``: for how long it waits for others."""
    threads = torch.get_num_threads()
    boards: list[Path] = []

    def make(
        limits: EngineLimits | None = None,
        queue: FakeQueue | None = None,
        stay: float = -1.0,
        reunion: float = 0.0,
    ) -> Loop:
        folder = tmp_path / "1"
        folder.mkdir(exist_ok=True)
        (folder / "bundle.json").write_text(FACTS.to_json())
        (folder / "scheduler_config.json").write_text(json.dumps(SDXL))
        np.savez(folder / "preview.npz", matrix=np.ones((4, 3), "f4"), bias=np.zeros(3, "f4"))
        np.savez(folder / "edge_encoder.npz", **edge_encoder_weights())
        engine = ToyEngine(limits)
        path = SHM_FOLDER / f"backdrop-board-test-{tmp_path.name}-{len(boards)}"
        boards.append(path)
        monkeypatch.setattr(entry, "load_engine", lambda *args: engine)
        monkeypatch.setattr(entry, "board_path", lambda pid: path)
        monkeypatch.setattr(gathering(), "STAY", stay)
        monkeypatch.setattr(gathering(), "REUNION", reunion)
        if queue is not None:
            monkeypatch.setattr(entry, "Lane", lambda device: DeviceLane(queue))
        values = {"row_limit": "8", "precision": "fp32", "engine": "toy"}
        parameters = {name: {"string_value": value} for name, value in values.items()}
        model = entry.DenoiseModel()
        model.initialize(
            {
                "model_repository": str(tmp_path),
                "model_version": "1",
                "model_config": json.dumps({"parameters": parameters}),
            }
        )
        return Loop(model, engine, Board(path))

    yield make
    torch.set_num_threads(threads)
    for path in boards:
        path.unlink(missing_ok=True)


def test_a_repository_without_the_edge_encoder_is_refused(
    entry: Any, make_loop: MakeLoop, tmp_path: Path
) -> None:
    make_loop()
    folder = tmp_path / "1"
    (folder / "edge_encoder.npz").unlink()
    with pytest.raises(
        EngineError, match=r"^edge_encoder\.npz is missing .*: export the repository"
    ):
        entry.Beginning(folder, entry.Lane("cpu"), entry.SchedulerFactory(SDXL))


def test_a_step_waits_for_the_cores_and_no_wait_is_billed(entry: Any, make_loop: MakeLoop) -> None:
    loop, one = make_loop(), request(1, scheduler="Euler", seeds=(1,))
    loop.step(one)
    with held(entry.board_path(0), HELD):
        begun = time.monotonic()
        loop.step(one)
        assert time.monotonic() - begun > HELD / 2
    loop.run(one)
    report = json.loads(one.output("denoise_report")[0, 0])
    assert 0 < report["engine_seconds"] < HELD / 2


def test_one_step_ahead_gives_what_the_host_gives(make_loop: MakeLoop) -> None:
    on_host, ahead = three(), three()
    make_loop().run(*on_host)
    make_loop(queue=FakeQueue()).run(*ahead)
    for host, device in zip(on_host, ahead, strict=True):
        np.testing.assert_array_equal(host.output("latents"), device.output("latents"))
        reports = [json.loads(r.output("denoise_report")[0, 0]) for r in (host, device)]
        for name in ("evaluations", "rows", "engine_calls", "shared_rows"):
            assert reports[0][name] == reports[1][name]
        assert all(report["engine_seconds"] > 0 for report in reports)
        assert all(report["edge_encoder_seconds"] > 0 for report in reports)


def test_a_request_is_answered_one_call_after_its_last_step(make_loop: MakeLoop) -> None:
    queue = FakeQueue()
    loop, short = make_loop(queue=queue), request(1, scheduler="Euler", seeds=(1,))
    for _ in range(20):
        loop.step(short)
        assert short.answer is None
    assert queue.events == 20
    loop.step(short)
    assert short.answer is not None
    assert queue.events == 20
    assert queue.log[-1] == "waited for 20"


def test_on_the_host_it_is_answered_at_once(make_loop: MakeLoop) -> None:
    loop, short = make_loop(), request(1, scheduler="Euler", seeds=(1,))
    for _ in range(20):
        assert short.answer is None
        loop.step(short)
    assert short.answer is not None


@pytest.mark.parametrize("ahead", [False, True])
def test_steps_go_on_in_one_call_while_nobody_waits(make_loop: MakeLoop, ahead: bool) -> None:
    loop = make_loop(queue=FakeQueue() if ahead else None, stay=60.0)
    short, long = (
        request(1, scheduler="Euler"),
        request(2, scheduler="Euler", num_inference_steps=25),
    )
    loop.step(short, long)
    assert short.answer is not None
    assert long.answer is None, "a place that is free again goes back to Triton"
    loop.step(long)
    assert long.answer is not None
    alone = request(3, scheduler="Euler", num_inference_steps=25)
    make_loop().run(alone)
    np.testing.assert_allclose(long.output("latents"), alone.output("latents"), atol=1e-6)


def test_a_call_ends_after_its_step_when_another_request_is_on_its_way(make_loop: MakeLoop) -> None:
    loop, given = make_loop(stay=60.0), request(1, scheduler="Euler")
    loop.board.enter("another", limit=9)
    for step in (1, 2, 3):
        loop.step(given)
        assert loop.board.status("r1").step == step
    loop.board.run("another", 20)
    loop.step(given)
    assert given.answer is not None


def test_a_request_that_missed_the_call_is_not_outrun(
    make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(stay=60.0)
    handed_back, late = request(1, scheduler="Euler"), request(2, scheduler="Euler")
    loop.board.enter("r2", 8)
    loop.step(handed_back)  # one step: the late one is on its way
    loop.step(late)
    assert [loop.board.status(name).step for name in ("r1", "r2")] == [1, 1]
    monkeypatch.setattr(gathering(), "MISSED_FOR", 0.0)  # Triton has dropped it
    loop.step(late)
    assert late.answer is not None
    assert loop.board.status("r1").step == 1


def test_those_that_came_apart_wait_for_each_other(
    make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(reunion=60.0)
    first, second = request(1, scheduler="Euler"), request(2, scheduler="Euler")

    def steps() -> list[int]:
        return [loop.board.status(name).step for name in ("r1", "r2")]

    loop.step(first, second)
    for alone in (first, second, first):
        loop.step(alone)
        assert alone.flags == triton_stub.module().TRITONSERVER_REQUEST_RELEASE_RESCHEDULE
        assert steps() == [1, 1]
    loop.step(first, second)
    assert steps() == [2, 2]
    monkeypatch.setattr(gathering(), "REUNION", 0.0)  # it does not come
    loop.step(first)
    assert steps() == [3, 2]
    monkeypatch.setattr(gathering(), "REUNION", 60.0)
    loop.step(first)
    assert steps() == [4, 2], "one that was waited for in vain holds nobody up again"
    loop.step(first, second)
    assert steps() == [5, 3]


def test_a_newcomer_that_waited_is_waited_for(make_loop: MakeLoop) -> None:
    loop = make_loop(reunion=60.0)
    first, second = request(1, scheduler="Euler"), request(2, scheduler="Euler")
    loop.step(first)
    loop.step(second)  # the first is on its way back
    loop.step(first)
    assert loop.board.status("r1").step == 1
    loop.step(first, second)
    assert [loop.board.status(name).step for name in ("r1", "r2")] == [2, 1]


def test_a_step_of_minutes_forgets_nobody(
    make_loop: MakeLoop, entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, given = make_loop(), request(1, scheduler="Euler")
    monkeypatch.setattr(entry, "FORGET_AFTER", 0.0)
    for step in (1, 2, 3):
        loop.step(given)
        assert loop.board.status("r1").step == step


def test_a_cancel_is_seen_within_a_call_of_many_steps(make_loop: MakeLoop) -> None:
    loop, given = make_loop(stay=60.0), request(1, scheduler="Euler")
    real, steps = loop.engine.run, []

    def run(inputs: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            loop.board.cancel("r1")
        return real(inputs)

    loop.engine.run = run  # type: ignore[method-assign]
    loop.step(given)
    assert given.answer is not None
    assert given.answer.error.code == "CANCELLED"
    assert len(steps) == 4


def test_the_last_step_of_one_does_not_stall_the_others(make_loop: MakeLoop) -> None:
    queue = FakeQueue()
    loop = make_loop(queue=queue)
    short, long = (
        request(1, scheduler="Euler"),
        request(2, scheduler="Euler", num_inference_steps=25),
    )
    loop.run(short, long)
    steps = [line for line in queue.log if line.startswith("queued")]
    assert len(steps) == 25
    # Step 21, of the long one alone, was queued before the short one's last was waited for.
    assert queue.log.index("queued 21") < queue.log.index("waited for 20")


def test_the_board_follows_what_has_landed(make_loop: MakeLoop) -> None:
    loop, given = make_loop(queue=FakeQueue()), request(1, scheduler="Euler", seeds=(1,))
    steps = []
    for _ in range(4):
        loop.step(given)
        status = loop.board.status("r1")
        assert status is not None
        steps.append(status.step)
    assert steps == [0, 1, 2, 3]
    assert status.preview is not None


def test_latents_that_are_no_numbers_fail_their_request(make_loop: MakeLoop) -> None:
    for queue in (None, FakeQueue()):
        loop, given = make_loop(queue=queue), request(1, scheduler="Euler", seeds=(1,))
        loop.engine.spoil_after = 3
        loop.run(given)
        assert given.answer is not None
        assert given.answer.error is not None
        assert "the server failed at this request" in given.answer.error.message


def test_a_cancelled_request_leaves_and_the_others_go_on(make_loop: MakeLoop) -> None:
    loop = make_loop(queue=FakeQueue())
    leaving, staying = request(1, scheduler="Euler"), request(2, scheduler="Euler", seeds=(7,))
    alone = request(3, scheduler="Euler", seeds=(7,))
    loop.step(leaving, staying)
    leaving.cancelled = True
    loop.run(leaving, staying)
    assert leaving.answer is not None
    assert leaving.answer.error.code == "CANCELLED"
    make_loop().run(alone)
    np.testing.assert_allclose(staying.output("latents"), alone.output("latents"), atol=1e-6)


@pytest.fixture
def statuses(entry: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process would have ended with."""
    ended: list[int] = []
    monkeypatch.setattr("backdrop_server.triton.pacing.END_AFTER", 0.0)
    monkeypatch.setattr("backdrop_server.triton.pacing.os._exit", ended.append)
    monkeypatch.setattr(entry.pb_utils.Logger, "errors", [])
    return ended


def _await_timers() -> None:
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()


@pytest.mark.parametrize("broken", ["record", "synchronize"])
def test_a_device_that_fails_fails_its_requests_and_ends_the_process(
    make_loop: MakeLoop,
    entry: Any,
    statuses: list[int],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    loop = make_loop(queue=FakeQueue())
    both = [request(1, scheduler="Euler"), request(2, scheduler="Euler")]
    loop.step(*both)
    monkeypatch.setattr(f"tests.unit.test_residence.FakeEvent.{broken}", _fail)
    loop.step(*both)
    assert all(given.answer is not None and given.answer.error is not None for given in both)
    loop.step(request(3, scheduler="Euler"))  # one that comes before the end: no second end
    _await_timers()
    assert statuses == [1]
    lines = [text for text in entry.pb_utils.Logger.errors if text.startswith("denoise: ")]
    assert lines == [
        "denoise: the device failed (CUDA error: an illegal memory access was encountered); "
        "this process ends, to be started anew"
    ]


def test_a_device_that_fails_while_it_is_idle_is_noticed(
    make_loop: MakeLoop, statuses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request's own error may be the device's: then no event is there to wait for."""
    loop = make_loop(queue=FakeQueue())
    loop.run(request(1, scheduler="Euler"))
    loop.step(request(2, scheduler="no such"))
    _await_timers()
    assert not statuses
    monkeypatch.setattr("tests.unit.test_residence.FakeEvent.synchronize", _fail)
    loop.step(request(3, scheduler="no such"))
    _await_timers()
    assert statuses == [1]


def test_an_engine_that_fails_on_the_host_ends_nothing(
    make_loop: MakeLoop, statuses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, given = make_loop(), request(1, scheduler="Euler")
    with monkeypatch.context() as broken:
        broken.setattr(ToyEngine, "run", lambda self, inputs: _fail(self))
        loop.step(given)
    assert given.answer is not None
    assert given.answer.error is not None
    after = request(2, scheduler="Euler")
    loop.run(after)
    assert after.output("latents").shape == (1, 2, 4, 8, 8)
    _await_timers()
    assert not statuses


def _fail(event: object) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_rows_are_counted_without_their_padding(make_loop: MakeLoop) -> None:
    loop = make_loop(limits=LIMITS)
    loop.step(request(1, seeds=(1, 2, 3)))
    assert loop.engine.rows == [8]
    loop.step(request(2, seeds=(1,)), request(3, seeds=(2,), guidance_scale=1.0))
    assert loop.engine.rows == [8, 4]
    assert loop.model._metrics.calls.value == 2
    assert loop.model._metrics.rows.value == 9
    assert loop.model._metrics.padded_rows.value == 3


def test_more_rows_than_a_call_takes_step_in_turns(make_loop: MakeLoop) -> None:
    loop = make_loop()
    both = request(1, scheduler="Euler", seeds=(1, 2, 3)), request(2, scheduler="Euler")
    loop.run(*both)
    assert loop.engine.rows == [6] * 20 + [4] * 20
    assert loop.calls == 40
    for given in both:
        alone = request(3, **json.loads(given.inputs["plan"][0, 0]))
        make_loop().run(alone)
        np.testing.assert_allclose(given.output("latents"), alone.output("latents"), atol=1e-6)


class LandedStopwatch:
    """A quarter of a second, that cannot be read before the device is known to be through."""

    def __init__(self, queue: FakeQueue) -> None:
        self._queue = queue
        self._step = queue.events + 1

    def stop(self) -> None: ...

    def seconds(self) -> float:
        assert f"waited for {self._step}" in self._queue.log
        return 0.25


def test_engine_time_is_counted_when_it_has_landed(make_loop: MakeLoop) -> None:
    queue = FakeQueue()
    loop = make_loop(queue=queue)
    loop.model._lane.stopwatch = lambda: LandedStopwatch(queue)
    short, wide = request(1, scheduler="Euler", seeds=(1,)), request(2, seeds=(1, 2, 3))
    busy = loop.model._metrics.busy_seconds
    loop.step(short, wide)  # 2 and 6 rows
    assert busy.value == 0
    assert loop.board.status("r2").engine_seconds == 0
    loop.step(short, wide)
    assert busy.value == 0.25
    assert loop.board.status("r1").engine_seconds == pytest.approx(0.25 / 4)
    assert loop.board.status("r2").engine_seconds == pytest.approx(0.25 * 3 / 4)
    loop.run(short, wide)
    report = json.loads(short.output("denoise_report")[0, 0])
    assert report["engine_seconds"] == pytest.approx(20 * 0.25 / 4)


def test_a_cancelled_request_leaves_its_engine_seconds_on_the_board(make_loop: MakeLoop) -> None:
    loop, leaving = make_loop(), request(1, scheduler="Euler")
    for _ in range(3):
        loop.step(leaving)
    leaving.cancelled = True
    loop.step(leaving)
    status = loop.board.status("r1")
    assert (status.stage, status.step) == (Stage.ENDED, 3)
    busy = loop.model._metrics.busy_seconds.value
    assert 0 < busy <= status.engine_seconds  # the share also holds the building of the batch


def test_padding_changes_no_latents(make_loop: MakeLoop) -> None:
    free, bound = request(1, seeds=(1, 2, 3)), request(1, seeds=(1, 2, 3))
    make_loop().run(free)
    make_loop(limits=LIMITS).run(bound)
    np.testing.assert_allclose(free.output("latents"), bound.output("latents"), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_rows": 4, "row_buckets": (2, 4)},
            "up to 8 rows come in one call; the engine",
        ),
        ({"heights": (16, 64)}, "requests may have latents of 8x8 .* heights 16 to 64"),
        ({"sizes": ((8, 16),)}, "requests may have latents of 8x8 .* was built for 8x16"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_when_the_server_starts(
    make_loop: MakeLoop, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        make_loop(limits=dataclasses.replace(LIMITS, **change))
