"""Seeded malformed inputs: pictures, JSON bodies, HTTP and tensors. None should do any harm."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from typing import Any

from PIL import Image

from backdrop_server.contract import PUBLIC_INPUTS
from tests import pictures
from tests.gateway.servers import body, in_base64

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, -(2**63), 1e308, "", "\0", "NaN", "x" * 5000, "\ud83d\ude00", [], [[]],
    {}, {"a": 1}, [1, 2, 3], "data:image/png;base64,", "data:,", "http://", "http://127.0.0.1/a.png",
    "file:///etc/passwd", "//", "AAAA", "=", 3.5, -0.0, 1e-320,
)  # fmt: skip
ODD_TEXTS = (
    b"", b"{", b"[]", b"null", b"{}", b'{"image": ', b"\xff\xfe{}", b"[" * 20_000, b'{"a":' * 20_000,
    b'{"seed": NaN}', b'{"seed": 1e999999}', b'{"image": "\\ud800"}', b"\x00" * 1000, b'"',
)  # fmt: skip
ODD_HEADS = (
    b"", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /v1/bg-replace HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/bg-replace HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n{}",
    b"POST /v1/bg-replace HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
    b"POST /v1/bg-replace HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    b"GET /v2/requests/%00%ff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost:\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip
# A shape of 2**40 is left out: Triton 24.10 itself ends on it, in its own HTTP code.
ODD_SHAPES: tuple[list[int], ...] = ([], [0, 0], [2, 1], [1, 2], [-1, 1], [1, 1, 1], [999])
ODD_DATA: tuple[Any, ...] = ([], [1], ["a", "b"], {}, None, [[["x"]]], [1e400], [True])
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")


def picture_files() -> list[bytes]:
    """A small file of each format, to be damaged."""
    image, files = Image.fromarray(pictures.product(48, 40)), []
    for name in FORMATS:
        data = io.BytesIO()
        image.save(data, name)
        files.append(data.getvalue())
    return files


def damaged(draw: random.Random, data: bytes) -> bytes:
    """The file cut, with bytes changed, moved or added."""
    broken = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8, 40])):
        at = draw.randrange(len(broken)) if broken else 0
        match draw.randrange(5):
            case 0 if broken:
                broken[at] = draw.randrange(256)
            case 1:
                del broken[at:]
            case 2:
                broken[at:at] = draw.randbytes(draw.randrange(1, 60))
            case 3:
                del broken[at : at + draw.randrange(1, 30)]
            case _ if len(broken) >= at + 4:
                broken[at : at + 4] = draw.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
                )
    return bytes(broken)


def odd_body(draw: random.Random, files: list[bytes]) -> bytes:
    """A JSON body: a damaged picture, an odd value in some field, or text that is no body."""
    cheap = {"strength": 0.0}  # where it is in order after all, no step is made
    match draw.randrange(4):
        case 0:
            return draw.choice(ODD_TEXTS)
        case 1:
            name = draw.choice(
                [*(tensor.name for tensor in PUBLIC_INPUTS), "timeout", "base64", "a\0b"]
            )
            return json.dumps(body(**cheap) | {name: draw.choice(ODD_VALUES)}).encode()
        case 2:
            text = bytearray(json.dumps(body(**cheap)).encode())
            for _ in range(draw.choice([1, 3, 20])):
                text[draw.randrange(len(text))] = draw.randrange(256)
            return bytes(text)
        case _:
            name = draw.choice(["image", "image", "ref_image", "mask_image"])
            return json.dumps(
                body(**cheap) | {name: in_base64(damaged(draw, draw.choice(files)))}
            ).encode()


def odd_http(draw: random.Random) -> bytes:
    """Bytes on a connection that are no HTTP request, or only part of one."""
    data = draw.choice(ODD_HEADS)
    return damaged(draw, data) if data and draw.random() < 0.5 else data


def odd_inference(draw: random.Random) -> bytes:
    """A body for Triton's ``/v2/models/replace_background/infer``: wrong types, shapes, values."""
    values: dict[str, Any] = {
        "image": in_base64(pictures.png(pictures.product(48, 40))),
        "ref_image": in_base64(pictures.png(pictures.scene(48, 40))), "prompt": "a table",
        "strength": 0.0,
    }  # fmt: skip
    inputs: list[dict[str, Any]] = [
        {"name": name, "shape": [1, 1], "datatype": "FP32" if name == "strength" else "BYTES",
         "data": [value]}
        for name, value in values.items()
    ]  # fmt: skip
    wrong = draw.choice(inputs)
    spoil: list[Callable[[], Any]] = [
        lambda: wrong.update(shape=draw.choice(ODD_SHAPES)),
        lambda: wrong.update(
            datatype=draw.choice(["INT8", "FP64", "BOOL", "BF16", "", "BYTES", "X"])
        ),
        lambda: wrong.update(data=draw.choice(ODD_DATA)),
        lambda: wrong.update(name=draw.choice(["", "plan", "image2", "alpha", "ü"])),
        lambda: inputs.remove(wrong),
        lambda: inputs.append(dict(wrong)),
    ]
    draw.choice(spoil)()
    text = json.dumps({"inputs": inputs}).encode()
    return damaged(draw, text) if draw.random() < 0.2 else text
