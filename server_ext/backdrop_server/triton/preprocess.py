"""Triton entry of `preprocess`: request in, plan and the arrays of every later stage out.

Called by itself with `alpha` as the only output, it answers with the photo's matte: that needs
`image` and, where given, `mask_image`, reads nothing else, and is no request on the board.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server import contract
from backdrop_server.contract import ReplaceOptions, Tensor, sample_seed
from backdrop_server.errors import InvalidInputError
from backdrop_server.plan import BundleFacts, Plan
from backdrop_server.stages import canny, pictures, subject
from backdrop_server.stages.conditioning import load_tokenizer, tokenize
from backdrop_server.stages.matting import Arrays, MattingNetwork
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import Matte
from backdrop_server.triton.board import Board, Stage, board_path
from backdrop_server.triton.cores import cores_for
from backdrop_server.triton.matting import EngineTime, load_matting
from backdrop_server.triton.priority import behind_the_engines
from backdrop_server.triton.tensors import (
    Array,
    answer_each,
    parameter,
    read_scalar,
    read_text,
    response,
)
from backdrop_server.working_sizes import working_size

_INPUTS = {tensor.name: tensor for tensor in contract.PUBLIC_INPUTS}
_PICTURES = ("image", "ref_image", "mask_image")
_NO_MAPS = np.empty((0, 1, 1), np.float32)


class PreprocessModel:
    """Decodes, finds the matte and the edges, tokenizes, and resolves every open choice."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizers and the bundle's facts from the model's folder."""
        folder = Path(args["model_repository"], args["model_version"])
        config = json.loads(args["model_config"])
        self._limit = int(parameter(config, "max_held_requests"))
        self._facts = BundleFacts.from_json((folder / "bundle.json").read_text())
        self._tokenizers = [load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
        self._board = Board(board_path(os.getppid()))
        self._engine_time = EngineTime()
        cv2.setNumThreads(1)  # OpenCV's own threads are to begin later, behind the engines
        # Begun before this process steps back: it keeps the priority, and so do the engine's threads.
        self._engine_thread = ThreadPoolExecutor(1)
        self._network = self._engine_thread.submit(self._load_network, folder).result()
        behind_the_engines()
        # Each instance is a process, and those that are at work have the cores between them.
        cores = len(os.sched_getaffinity(0))
        cv2.setNumThreads(max(1, cores // contract.PREPROCESS_INSTANCES))
        # With more threads than cores the one that keys, for which all wait, has to take turns more.
        self._beside = ThreadPoolExecutor(min(contract.PREPROCESS_THREADS, cores))
        self._how = (self._network, self._beside)

    def _load_network(self, folder: Path) -> MattingNetwork | None:
        """The matting network, which is asked in this thread, and on a CPU has the cores to itself."""
        network = load_matting(folder, self._engine_time)
        if network is None:
            return None
        network.warm_up()
        cores, run = cores_for(network.device, board_path(os.getppid())), network.run

        def alone(inputs: Arrays) -> Arrays:
            with cores():
                return run(inputs)

        return dataclasses.replace(
            network, run=lambda inputs: self._engine_thread.submit(alone, inputs).result()
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return answer_each(requests, self._answer)

    def finalize(self) -> None:
        """Triton unloads the model."""
        self._beside.shutdown()
        self._engine_thread.shutdown()

    def _answer(self, request: Any) -> Any:
        if set(request.requested_output_names()) == {contract.ALPHA.name}:
            picture = _decoded(read_scalar(request, _INPUTS["image"]), "image")
            mask = _read_mask(request, picture)
            return response({contract.ALPHA: subject.find_matte(picture, mask, *self._how).alpha})
        request_id = request.request_id() or uuid.uuid4().hex
        received_at = time.monotonic()
        self._board.enter(request_id, self._limit)
        try:
            return self._prepare(request, request_id, received_at)
        except Exception:
            self._board.move(request_id, Stage.ENDED)
            raise

    def _prepare(self, request: Any, request_id: str, received_at: float) -> Any:
        options = _read_options(request)
        picture, reference = self._read_pictures(request)
        mask = _read_mask(request, picture)
        size = working_size(*picture.size, self._facts.native_pixels)
        engines_before = self._engine_time.seconds
        # What needs no matte is made ready beside it; of a request without one nothing stays behind.
        with _begun(
            self._beside.submit(self._read_conditions, reference, options),
            self._beside.submit(_working_image, picture, size),
        ) as (conditions, working):
            matte = subject.rough_matte(picture, mask, *self._how)
        matting_seconds = self._engine_time.seconds - engines_before
        working_image, edges = working.result()
        working_mask = subject.working_mask(matte.alpha, *size)
        arrays = conditions.result() | {
            contract.WORKING_IMAGE: working_image,
            contract.MASK: working_mask,
            contract.EDGES: canny.at_matte(edges, working_mask),
            contract.PHOTO: picture.rgb,
            contract.ROUGH_ALPHA: matte.alpha,
            contract.MATTING_MAPS: _NO_MAPS if matte.maps is None else matte.maps,
            contract.LATENT_MASK: subject.latent_mask(working_mask, self._facts.vae_scale_factor),
        }
        plan = dataclasses.replace(
            _make_plan(options, request_id, size, matte, received_at),
            guidance_rescale=self._facts.guidance_rescale,
            matting_seconds=matting_seconds,
            prepared_at=time.monotonic(),
        )
        return response({contract.PLAN: plan.to_json()} | arrays)

    def _read_pictures(self, request: Any) -> tuple[Picture, Picture]:
        """Photo and reference, decoded side by side; of two that are bad the photo is named."""
        data = read_scalar(request, _INPUTS["ref_image"])
        with _begun(self._beside.submit(_decoded, data, "ref_image")) as (reference,):
            picture = _decoded(read_scalar(request, _INPUTS["image"]), "image")
        return picture, reference.result()

    def _read_conditions(
        self, reference: Picture, options: ReplaceOptions
    ) -> dict[Tensor, npt.NDArray[Any]]:
        """What the encoders read: words as tokens, the reference as pixels."""
        ids = [
            tokenize(tokenizer, [options.negative_prompt or "", options.prompt])
            for tokenizer in self._tokenizers
        ]
        pixels = pictures.clip_pixels(reference.rgb, self._facts.clip_image_size)
        return {
            contract.INPUT_IDS: ids[0],
            contract.INPUT_IDS_2: ids[1],
            contract.REF_PIXELS: pixels,
        }


def _working_image(picture: Picture, size: tuple[int, int]) -> tuple[Array, Array]:
    """The photo at the working size, width and height, and all of its edges."""
    image = pictures.resize(picture.rgb, *size)
    return image, canny.edges_of(image)


@contextlib.contextmanager
def _begun(*work: Future[Any]) -> Iterator[tuple[Future[Any], ...]]:
    """Futures that are done, one way or another, when the block is left."""
    try:
        yield work
    finally:
        wait(work)


def _decoded(data: bytes | None, name: str) -> Picture:
    if data is None:
        raise InvalidInputError(name, "it is missing", "a picture file")
    return pictures.decode(data, name)


def _read_mask(request: Any, picture: Picture) -> Array | None:
    mask = read_scalar(request, _INPUTS["mask_image"])
    return None if mask is None else pictures.decode_mask(mask, "mask_image", picture.size)


def _read_options(request: Any) -> ReplaceOptions:
    values: dict[str, object] = {}
    for name, tensor in _INPUTS.items():
        if name in _PICTURES:
            continue
        read = read_text if tensor.dtype == "BYTES" else read_scalar
        value = read(request, tensor)
        if value is not None:
            values[name] = value
    return ReplaceOptions.from_values(values)


def _make_plan(
    options: ReplaceOptions,
    request_id: str,
    size: tuple[int, int],
    matte: Matte,
    received_at: float,
) -> Plan:
    # A seed is no secret: it tells samples apart.
    seed = options.seed if options.seed >= 0 else random.randint(0, contract.MAX_SEED)  # noqa: S311
    return Plan(
        request_id=request_id,
        width=size[0],
        height=size[1],
        scheduler=options.scheduler,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        strength=options.strength,
        cn_weight=options.cn_weight,
        ip_adapter_weight=options.ip_adapter_weight,
        seeds=tuple(sample_seed(seed, k) for k in range(options.samples)),
        has_negative_prompt=options.negative_prompt is not None,
        preserve_subject=options.preserve_subject,
        output_format=options.output_format,
        matte_source=matte.source,
        matte_sureness=matte.sureness,
        shadow=options.shadow,
        shadow_direction=options.shadow_direction,
        shadow_strength=options.shadow_strength,
        harmonize=options.harmonize,
        received_at=received_at,
        prepared_at=received_at,
    )
