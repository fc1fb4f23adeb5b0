"""Triton entry of `control`: where a request is, a preview of it, cancelling; and engine costs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from backdrop_server import contract
from backdrop_server.costs import Costs
from backdrop_server.errors import InvalidInputError
from backdrop_server.stages import pictures
from backdrop_server.triton.board import Board, Stage, Status, board_path
from backdrop_server.triton.tensors import answer_each, read_text, response

ACTION, TARGET = contract.CONTROL.inputs
STATUS, PREVIEW = contract.CONTROL.outputs


class ControlModel:
    """Reads and flags entries of the board; knows what the engines cost."""

    def initialize(self, args: dict[str, str]) -> None:
        """Map the board of this server; read the costs from the model's folder."""
        folder = Path(args["model_repository"], args["model_version"])
        self._costs = Costs.from_json((folder / "costs.json").read_text())
        self._board = Board(board_path(os.getppid()))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> Any:
        action = read_text(request, ACTION)
        if action == "facts":
            return response({STATUS: self._costs.to_json().encode(), PREVIEW: b""})
        if action not in ("status", "cancel"):
            raise InvalidInputError("action", f"{action!r} is not known", "status, cancel, facts")
        target = _read_target(request)
        if action == "cancel":
            self._board.cancel(target)
        status = self._board.status(target)
        preview = b"" if status.preview is None else pictures.encode(status.preview, "png")
        return response({STATUS: _to_json(status), PREVIEW: preview})


def _read_target(request: Any) -> str:
    target = read_text(request, TARGET)
    if not target:
        problem = "it is missing" if target is None else "it is empty"
        raise InvalidInputError("target", problem, "the id of a request")
    return target


def _to_json(status: Status) -> bytes:
    stage = "unknown" if status.stage is Stage.FREE else status.stage.name.lower()
    values = {
        "stage": stage,
        "step": status.step,
        "total": status.total,
        "engine_seconds": round(status.engine_seconds, 6),
        "cancelled": status.cancelled,
    }
    return json.dumps(values).encode()
