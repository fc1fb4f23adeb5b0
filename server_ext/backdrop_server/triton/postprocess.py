"""Triton entry of `postprocess`: product pixels back over the new background, pictures out."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backdrop_server import contract
from backdrop_server.costs import Costs
from backdrop_server.plan import Plan
from backdrop_server.stages import pictures
from backdrop_server.stages.fidelity import Fidelity, Product, fidelity, product_of
from backdrop_server.stages.layers import Cutout, cut_out
from backdrop_server.stages.report import final_report
from backdrop_server.triton.board import Board, Stage, board_path
from backdrop_server.triton.tensors import Array, answer_each, read_required, read_scalar, response

IMAGES, SEEDS, REPORT, MATTE, EDGE_MAP, LAYERS = contract.PUBLIC_OUTPUTS


class PostprocessModel:
    """The last stage; takes the request off the board."""

    def initialize(self, args: dict[str, str]) -> None:
        """Map the board of this server; read the costs from the model's folder."""
        folder = Path(args["model_repository"], args["model_version"])
        self._costs = Costs.from_json((folder / "costs.json").read_text())
        self._board = Board(board_path(os.getppid()))
        self._beside = ThreadPoolExecutor(1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return answer_each(requests, self._answer)

    def finalize(self) -> None:
        """Triton unloads the model."""
        self._beside.shutdown()

    def _answer(self, request: Any) -> Any:
        began_at = time.monotonic()
        plan = Plan.from_json(read_scalar(request, contract.PLAN))
        try:
            return _finish(request, plan, self._costs, began_at, self._beside)
        finally:
            self._board.move(plan.request_id, Stage.ENDED)


def _finish(request: Any, plan: Plan, costs: Costs, began_at: float, beside: Executor) -> Any:
    wanted = set(request.requested_output_names())
    photo, alpha = read_required(request, contract.PHOTO), read_required(request, contract.ALPHA)
    outputs: dict[contract.Tensor, Any] = {}
    product: list[Fidelity] = []
    if wanted & {IMAGES.name, REPORT.name, LAYERS.name}:
        backgrounds = read_required(request, contract.PIXELS)
        own = beside.submit(_product, plan, photo, alpha)
        cutout = cut_out(plan, photo, alpha, read_required(request, contract.EDGE_COLOURS))
        files = []
        for background in backgrounds:
            picture = _picture(plan, photo, cutout, background)
            numbers = beside.submit(fidelity, own.result(), picture)
            if IMAGES.name in wanted:
                files.append(pictures.encode(picture, plan.output_format))
            product.append(numbers.result())
        outputs |= {IMAGES: files} if files else {}
        if LAYERS.name in wanted:
            outputs[LAYERS] = [
                pictures.encode(layer, "png") for layer in cutout.layers(backgrounds)
            ]
    outputs |= _small_outputs(request, plan, alpha, wanted)
    if REPORT.name in wanted:
        loop = json.loads(read_scalar(request, contract.DENOISE_REPORT))
        size = (photo.shape[1], photo.shape[0])
        times = (began_at, time.monotonic())
        sureness = read_scalar(request, contract.MATTE_SURENESS)
        plan = dataclasses.replace(plan, matte_sureness=sureness)
        outputs[REPORT] = final_report(plan, loop, costs, size, times, product)
    return response(outputs)


def _small_outputs(
    request: Any, plan: Plan, alpha: Array, wanted: set[str]
) -> dict[contract.Tensor, Any]:
    outputs: dict[contract.Tensor, Any] = {}
    if SEEDS.name in wanted:
        outputs[SEEDS] = np.array(plan.seeds, np.int64)
    if MATTE.name in wanted:
        matte = pictures.resize_matte(alpha, plan.width, plan.height)
        outputs[MATTE] = pictures.encode(matte, "png")
    if EDGE_MAP.name in wanted:
        outputs[EDGE_MAP] = pictures.encode(read_required(request, contract.EDGES), "png")
    return outputs


def _picture(plan: Plan, photo: Array, cutout: Cutout, background: Array) -> npt.NDArray[np.uint8]:
    """The answer for one sample: uint8 [H0, W0, 3], or [H, W, 3] for the raw output."""
    if plan.keeps_photo:
        return photo
    if plan.preserve_subject:
        return cutout.over(background)
    return background


def _product(plan: Plan, photo: Array, alpha: Array) -> Product:
    """The photo's product at the answer's size, which of the raw output is the working one."""
    height, width = photo.shape[:2]
    if not (plan.keeps_photo or plan.preserve_subject):
        width, height = plan.width, plan.height
    return product_of(
        pictures.resize(photo, width, height), pictures.resize_matte(alpha, width, height)
    )
