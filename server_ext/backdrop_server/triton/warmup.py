"""The first pictures of a fresh server, before anyone may ask for one."""

from __future__ import annotations

import functools
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import InferenceServerException

from backdrop_client.triton import replace
from backdrop_server.contract import MAX_PICTURE_SIDE, NUMBERS, PREPROCESS_INSTANCES
from backdrop_server.errors import SetupError


def warm_up(grpc_url: str) -> None:
    """Make pictures of the largest size, one on each instance of `preprocess` at once, the first with
    a mask, the others with a background to key out.

    Proves that a picture can be made, lets the engines do their work of a first call, and brings
    shared memory, which Triton only ever grows, to its steady size. Raises SetupError.
    """
    with (
        grpcclient.InferenceServerClient(grpc_url) as client,
        ThreadPoolExecutor(PREPROCESS_INSTANCES) as pool,
    ):
        try:
            list(pool.map(functools.partial(_ask, client), range(PREPROCESS_INSTANCES)))
        except InferenceServerException as error:
            raise SetupError(f"the server cannot make a picture: {error.message()}") from None


def _ask(client: grpcclient.InferenceServerClient, seed: int) -> None:
    side = MAX_PICTURE_SIDE
    photo = np.full((side, side, 3), 255, np.uint8)
    mask = np.full((side, side), 255, np.uint8)
    middle = slice(side // 4, -side // 4)
    photo[middle, middle] = 90
    mask[middle, middle] = 0
    masked: dict[str, Any] = {"mask_image": _encode(mask)} if seed == 0 else {}
    steps = int(NUMBERS["num_inference_steps"].low)
    replace(
        client,
        grpcclient,
        image=_encode(photo),
        ref_image=_encode(photo),
        **masked,
        prompt="warm-up",
        scheduler="Euler",
        num_inference_steps=steps,
        strength=1 / steps,  # one step
        seed=seed,
    )


def _encode(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
