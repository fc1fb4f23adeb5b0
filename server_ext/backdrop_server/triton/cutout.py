"""Triton entry of `cutout`: the finished matte and the product's own colours, beside the loop."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from backdrop_server import contract
from backdrop_server.plan import Plan
from backdrop_server.stages.layers import colours_of
from backdrop_server.stages.subject import Matte, refined
from backdrop_server.triton.board import Board, Stage, board_path
from backdrop_server.triton.priority import behind_the_engines
from backdrop_server.triton.tensors import answer_each, read_required, read_scalar, response


class CutoutModel:
    """What only `postprocess` needs: it has all the time in which the scene is painted."""

    def initialize(self, args: dict[str, str]) -> None:
        """Leave half of the cores to what runs meanwhile; map the board of this server."""
        behind_the_engines()
        cv2.setNumThreads(max(1, len(os.sched_getaffinity(0)) // contract.CUTOUT_INSTANCES))
        self._board = Board(board_path(os.getppid()))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> Any:
        plan = Plan.from_json(read_scalar(request, contract.PLAN))
        # A cancel is for `denoise` to answer: after an error here Triton would not even ask it, and the
        # request's place would stay taken.
        try:
            return _cut_out(request, plan)
        except Exception:
            self._give_up(plan.request_id)
            raise

    def _give_up(self, request_id: str) -> None:
        """After an error Triton asks no further stage: a loop that runs has to stop, and then frees the
        request's place; else it is free now."""
        if self._board.cancel(request_id).stage is not Stage.RUNNING:
            self._board.move(request_id, Stage.ENDED)


def _cut_out(request: Any, plan: Plan) -> Any:
    photo, maps = (read_required(request, i) for i in (contract.PHOTO, contract.MATTING_MAPS))
    rough = Matte(
        read_required(request, contract.ROUGH_ALPHA),
        plan.matte_source,
        plan.matte_sureness,
        maps if len(maps) else None,
    )
    matte = refined(photo, rough)
    return response(
        {
            contract.ALPHA: matte.alpha,
            contract.MATTE_SURENESS: np.array([matte.sureness], np.float32),
            contract.EDGE_COLOURS: colours_of(plan, photo, matte.alpha),
        }
    )
