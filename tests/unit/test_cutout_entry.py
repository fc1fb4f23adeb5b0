"""Triton's entry of `cutout`, without a server: the stage and the board are the real ones."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from backdrop_server.errors import CancelledError
from backdrop_server.stages.foreground import edge_colours
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import Matte, find_matte, rough_matte
from backdrop_server.triton.board import SHM_FOLDER, Board, Stage
from tests.unit import triton_stub
from tests.unit.test_contract import make_plan
from tests.unit.test_refined import photo_of, share_of

RGB = photo_of(share_of(1024, 1024))


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Path]:
    path = SHM_FOLDER / f"backdrop-board-test-{tmp_path.name}"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, board: Path) -> Iterator[ModuleType]:
    """The entry's module, imported as inside Triton; its process keeps its priority."""
    names = [f"backdrop_server.triton.{module}" for module in ("cutout", "tensors")]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_stub.module())
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(names[0])
    monkeypatch.setattr(module, "board_path", lambda pid: board)
    monkeypatch.setattr(os, "nice", lambda more: 0)
    yield module
    for name in names:
        sys.modules.pop(name, None)


def request(matte: Matte) -> triton_stub.Request:
    plan = make_plan(
        request_id="r1", matte_source=matte.source, matte_sureness=matte.sureness, seeds=(1,)
    )
    maps = np.empty((0, 1, 1), np.float32) if matte.maps is None else matte.maps
    inputs = {
        "plan": plan.to_json(), "photo": RGB, "rough_alpha": matte.alpha, "matting_maps": maps,
    }  # fmt: skip
    return triton_stub.request(1, inputs)


def answered(entry: Any, asked: triton_stub.Request) -> triton_stub.Request:
    model = entry.CutoutModel()
    model.initialize({})
    (asked.answer,) = model.execute([asked])
    return asked


def test_the_finished_matte_and_the_colours_at_its_edge(entry: Any, board: Path) -> None:
    Board(board).enter("r1", 4)
    asked = answered(entry, request(rough_matte(Picture(RGB))))
    expected = find_matte(Picture(RGB))
    np.testing.assert_array_equal(asked.output("alpha")[0], expected.alpha)
    colours = asked.output("edge_colours")[0]
    np.testing.assert_array_equal(colours, edge_colours(RGB, expected.alpha))
    assert len(colours) == np.count_nonzero((expected.alpha > 0) & (expected.alpha < 255)) > 0
    sureness = asked.output("matte_sureness")
    assert sureness.dtype == np.float32
    assert float(sureness[0, 0]) == pytest.approx(expected.sureness)


def test_a_matte_that_was_given_stays_as_it_is(entry: Any, board: Path) -> None:
    Board(board).enter("r1", 4)
    alpha = np.zeros((1024, 1024), np.uint8)
    alpha[200:800, 200:800] = 255
    asked = answered(entry, request(Matte(alpha, "mask")))
    np.testing.assert_array_equal(asked.output("alpha")[0], alpha)
    assert asked.output("edge_colours").shape == (1, 0, 3)
    assert asked.output("matte_sureness")[0, 0] == 1


def test_a_cancel_is_left_to_the_loop(entry: Any, board: Path) -> None:
    known = Board(board)
    known.enter("r1", 4)
    known.cancel("r1")
    asked = answered(entry, request(Matte(np.zeros((1024, 1024), np.uint8), "mask")))
    assert asked.output("alpha").shape == (1, 1024, 1024)


@pytest.mark.parametrize("stage", [Stage.WAITING, Stage.RUNNING, Stage.FINISHING])
def test_a_fault_stops_the_loop_and_frees_the_place(
    entry: Any, board: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError("no memory is left")

    monkeypatch.setattr(entry, "refined", fails)
    known = Board(board)
    known.enter("r1", 4)
    if stage is not Stage.WAITING:
        known.run("r1", 20)
        known.move("r1", stage)
    asked = answered(entry, request(rough_matte(Picture(RGB))))
    assert asked.answer is not None
    assert asked.answer.error.message == "the server failed at this request; its log says why"
    assert known.count_live() == (stage is Stage.RUNNING)
    if stage is Stage.RUNNING:
        assert "r1" in known.cancelled()
    elif stage is Stage.WAITING:  # should the loop be asked all the same
        with pytest.raises(CancelledError):
            known.run("r1", 20)
