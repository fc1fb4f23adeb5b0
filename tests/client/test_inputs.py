"""Pictures in every form, over REST with and without asyncio, and over Triton: the same result."""

from __future__ import annotations

import asyncio
import functools
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backdrop_client import AsyncBackdrop, Backdrop, InvalidInput, Result
from backdrop_client.fields import json_body
from backdrop_server.contract import NUMBERS, PUBLIC_INPUTS
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.client.samples import PRODUCT, SCENE, fields
from tests.gateway.servers import GatewayProcess, in_base64

needs_triton = pytest.mark.triton


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with the two pictures, and the URL of a web server that serves it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "product.png").write_bytes(PRODUCT)
    (folder / "scene.png").write_bytes(SCENE)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.fixture(scope="module")
def expected(server: TritonServer) -> Result:
    """What Triton makes of the bytes."""
    with Backdrop.triton(server.grpc_url) as triton:
        return triton.replace(**fields())


FORMS: dict[str, Callable[[Path, str, bytes], Any]] = {
    "bytes": lambda path, url, data: data,
    "bytearray": lambda path, url, data: bytearray(data),
    "memoryview": lambda path, url, data: memoryview(data),
    "Path": lambda path, url, data: path,
    "str": lambda path, url, data: str(path),
    "file": lambda path, url, data: io.BytesIO(data),
    "image": lambda path, url, data: Image.open(io.BytesIO(data)),
    "url": lambda path, url, data: url,
    "data": lambda path, url, data: f"data:image/png;base64,{in_base64(data)}",
}


def in_form(form: str, site: tuple[Path, str]) -> dict[str, Any]:
    folder, url = site
    given = {
        field: FORMS[form](folder / name, f"{url}/{name}", data)
        for field, name, data in (
            ("image", "product.png", PRODUCT),
            ("ref_image", "scene.png", SCENE),
        )
    }
    return fields(**given)


@needs_triton
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_picture_however_it_is_sent(
    form: str,
    site: tuple[Path, str],
    gateway: GatewayProcess,
    client: Backdrop,
    server: TritonServer,
    expected: Result,
) -> None:
    key = gateway.make_key()

    async def ask() -> Result:
        async with AsyncBackdrop(gateway.url, key) as other:
            return await other.replace(**in_form(form, site))

    with Backdrop.triton(server.grpc_url) as triton:
        over_triton = triton.replace(**in_form(form, site))
    for result in (client.replace(**in_form(form, site)), asyncio.run(ask()), over_triton):
        assert result.image_bytes == expected.image_bytes
        assert result.seeds == (7,)
        assert result.report["unet_evaluations"] == 2


@needs_triton
def test_the_result_has_pictures_seeds_report_and_cost(client: Backdrop) -> None:
    before = client.credits()
    result = client.replace(**fields(samples=2, output_format="webp"))
    assert [(image.format, image.size) for image in result.images] == [("WEBP", (120, 96))] * 2
    assert result.images is result.images
    assert [Image.open(io.BytesIO(data)).size for data in result.image_bytes] == [(120, 96)] * 2
    assert result.seeds == (7, 8)
    assert result.cost is not None
    assert result.cost > 0
    assert client.credits() == before - result.cost
    assert result.request_id == result.report["request_id"]
    with pytest.raises(AttributeError):
        result.seeds = ()  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_pil_image_of_any_mode_is_sent_as_png(mode: str) -> None:
    given = Image.fromarray(pictures.product(64, 48)).convert(mode)
    sent = sent_image(given)
    assert (sent.format, sent.size) == ("PNG", (64, 48))
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(np.asarray(sent), np.asarray(given))


def test_a_pil_image_is_sent_upright() -> None:
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pictures.product(64, 48)).save(data, "JPEG", exif=exif)
    sent = sent_image(Image.open(data))
    assert sent.size == (48, 64)
    assert sent.getexif().get(0x0112, 1) == 1


def sent_image(image: Image.Image) -> Image.Image:
    import base64
    import json

    text = json.loads(json_body({"image": image}))["image"]
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_same_request_is_the_same_body(tmp_path: Path) -> None:
    """An idempotency key that is sent again must come with the same bytes."""
    path = tmp_path / "product.png"
    path.write_bytes(PRODUCT)
    bodies = {json_body(fields(image=image), base64=True) for image in (PRODUCT, path, str(path))}
    turned = dict(reversed(fields().items()))
    assert bodies == {json_body(turned, base64=True)}


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [
        ({"image": "no/such.png"}, "image", "'no/such.png' cannot be read (No such file"),
        ({"ref_image": Path("/")}, "ref_image", "cannot be read (Is a directory)"),
        ({"image": 3}, "image", "it is of the type int"),
        ({"image": io.StringIO("text")}, "image", "its file is open as text"),
        ({"image": "a\0b"}, "image", "cannot be read"),
        ({"colour": "red"}, "colour", "it is not known; allowed: image, ref_image"),
        ({"dry_run": True}, "dry_run", "the client sets it itself"),
        ({"strength": float("nan")}, "strength", "nan is no value"),
        ({"samples": object()}, "samples", "is no value; allowed: text, a finite number"),
        ({"prompt": b"bytes"}, "prompt", "it is bytes; allowed: text"),
    ],
)
def test_what_cannot_be_sent_is_named(wrong: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        json_body(fields(**wrong))
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: ")
    assert words in caught.value.message
    assert caught.value.status is None


def test_the_clients_fields_are_the_contracts() -> None:
    from backdrop_client import fields as table

    kinds = {
        "BYTES": (*table.PICTURES, *table.TEXTS),
        "INT32": ("samples", "num_inference_steps"),
        "INT64": ("seed",),
        "FP32": table.NUMBERS,
        "BOOL": table.FLAGS,
    }
    assert {tensor.name: tensor.dtype for tensor in PUBLIC_INPUTS} == {
        name: kind for kind, names in kinds.items() for name in names
    }
    assert {name for name, number in NUMBERS.items() if number.integer} == set(table.INTEGERS)
