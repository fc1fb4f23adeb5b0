"""Triton entry of `cutout`: the finished matte and the product's own colours, beside the loop."""

from __future__ import annotations

import os
from typing import Any

import cv2

from backdrop_server import contract
from backdrop_server.plan import Plan
from backdrop_server.stages.layers import foreground_of
from backdrop_server.stages.subject import refined
from backdrop_server.triton.tensors import answer_each, read_required, read_scalar, response


class CutoutModel:
    """What only `postprocess` needs, so that nobody waits for it while the scene is painted."""

    def initialize(self, args: dict[str, str]) -> None:
        """Leave half of the cores to what runs meanwhile."""
        cv2.setNumThreads(max(1, len(os.sched_getaffinity(0)) // 2))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return answer_each(requests, _answer)


def _answer(request: Any) -> Any:
    plan = Plan.from_json(read_scalar(request, contract.PLAN))
    photo = read_required(request, contract.PHOTO)
    maps = read_required(request, contract.MATTING_MAPS)
    rough = read_required(request, contract.ROUGH_ALPHA)
    alpha = refined(photo, rough, maps if len(maps) else None)
    return response({contract.ALPHA: alpha, contract.FOREGROUND: foreground_of(plan, photo, alpha)})
