"""`preprocess` by itself, asked for `alpha` alone: the matte of a photo and nothing more."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from benchmarks.quality.mattes import shipped_network
from PIL import Image
from tritonclient.utils import InferenceServerException

from backdrop_client.triton import OUTPUTS, infer_inputs, replace
from backdrop_server.stages import pictures as stage_pictures
from backdrop_server.stages.subject import find_matte
from backdrop_server.triton.board import Board, board_path
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.pictures import Pixels

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc_url) as opened:
        yield opened


def matte_of(client: Any, **fields: object) -> Pixels:
    wanted = [grpcclient.InferRequestedOutput("alpha")]
    inputs = infer_inputs(grpcclient, fields)
    answer = client.infer("preprocess", inputs, outputs=wanted, request_id="matte-only")
    alpha: Pixels = answer.as_numpy("alpha")
    assert alpha.dtype == np.uint8
    first: Pixels = alpha[0]
    return first


@pytest.mark.parametrize("size", [(300, 200), (203, 701), (64, 64), (1231, 857), (2048, 2048)])
def test_the_matte_has_the_photos_size(client: Any, size: tuple[int, int]) -> None:
    photo = pictures.png(pictures.product(*size))
    alpha = matte_of(client, image=photo)
    expected = find_matte(stage_pictures.decode(photo, "image"), None, shipped_network()).alpha
    np.testing.assert_array_equal(alpha, expected)
    assert alpha.shape == (size[1], size[0])
    agreement = (alpha >= 128) == (pictures.product_mask(*size) == 0)
    assert agreement.mean() > 0.97


def test_a_mask_is_the_matte(client: Any) -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[:50] = 255
    mask[50:60] = 128
    photo = pictures.png(pictures.product())
    alpha = matte_of(client, image=photo, mask_image=pictures.png(mask))
    np.testing.assert_array_equal(alpha, 255 - mask)


@pytest.mark.parametrize("size", [(203, 501), (1100, 900), (2048, 2048)])
def test_it_equals_the_matte_of_a_whole_request(client: Any, size: tuple[int, int]) -> None:
    photo = pictures.png(pictures.product(*size))
    fields: dict[str, Any] = {
        "image": photo,
        "ref_image": pictures.png(pictures.scene()),
        "prompt": "a beach",
    }
    whole = replace(
        client, grpcclient, outputs=(*OUTPUTS, "matte", "layers"), strength=0.0, **fields
    )
    alpha = matte_of(client, image=photo)
    small = stage_pictures.resize_matte(alpha, *whole.report["working_size"])
    np.testing.assert_array_equal(small, pictures.decode(whole.matte))
    subject = np.asarray(Image.open(io.BytesIO(whole.layers[-1])))
    np.testing.assert_array_equal(subject[..., 3], alpha)


def test_it_is_no_request_on_the_board(server: TritonServer, client: Any) -> None:
    board = Board(board_path(server.pid))
    before = board.count_live()
    for _ in range(3):  # the same id each time: none of them is a live duplicate
        matte_of(client, image=pictures.png(pictures.product()))
    assert board.count_live() == before
    board.close()


PHOTO = pictures.png(pictures.product())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a beach"}, "image: it is missing; allowed: a picture file"),
        ({"image": b""}, "image: it is empty; allowed: a PNG, JPEG, GIF or WEBP file"),
        ({"image": b"no picture"}, "image: it is not a picture of a known format; allowed: "),
        ({"image": PHOTO[:-500]}, "image: it is damaged or cut short; allowed: "),
        (
            {"image": pictures.png(np.full((90, 90, 3), 200, np.uint8))},
            "image: no subject could be told from its background: "
            "all of it looks like background; allowed: ",
        ),
        (
            {"image": pictures.png(np.zeros((8, 2049, 3), np.uint8))},
            "image: it is 2049x8 px; allowed: at most 2048x2048 px",
        ),
        (
            {"image": PHOTO, "mask_image": pictures.png(pictures.product_mask(200, 300))},
            "mask_image: it is 200x300 px, the photo 300x200 px; allowed: a mask of the photo's size",
        ),
        ({"image": PHOTO, "mask_image": PHOTO[:-500]}, "mask_image: it is damaged or cut short"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_errors_name_the_field(client: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        matte_of(client, **fields)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in str(caught.value.message())
