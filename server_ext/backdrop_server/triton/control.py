"""Triton entry of `control`: where a request is, a preview of it, and cancelling."""

from __future__ import annotations

import json
import os
from typing import Any

from backdrop_server import contract
from backdrop_server.errors import InvalidInputError
from backdrop_server.stages import pictures
from backdrop_server.triton.board import Board, Stage, Status, board_path
from backdrop_server.triton.tensors import answer_each, read_text, response

ACTION, TARGET = contract.CONTROL.inputs
STATUS, PREVIEW = contract.CONTROL.outputs


class ControlModel:
    """Reads and flags entries of the board."""

    def initialize(self, args: dict[str, str]) -> None:
        """Map the board of this server."""
        del args
        self._board = Board(board_path(os.getppid()))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> Any:
        action, target = read_text(request, ACTION), read_text(request, TARGET)
        if action not in ("status", "cancel"):
            raise InvalidInputError("action", f"{action!r} is not known", "status, cancel")
        if not target:
            raise InvalidInputError("target", "it is empty", "the id of a request")
        if action == "cancel":
            self._board.cancel(target)
        status = self._board.status(target)
        preview = b"" if status.preview is None else pictures.encode(status.preview, "png")
        return response({STATUS: _to_json(status), PREVIEW: preview})


def _to_json(status: Status) -> bytes:
    stage = "unknown" if status.stage is Stage.FREE else status.stage.name.lower()
    values = {
        "stage": stage,
        "step": status.step,
        "total": status.total,
        "cancelled": status.cancelled,
    }
    return json.dumps(values).encode()
