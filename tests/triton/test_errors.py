"""Bad requests: each gets a sentence that names the field, over both protocols, and harms nobody."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from backdrop_client.triton import MODEL, Replaced, infer_inputs, replace
from backdrop_server.contract import MAX_PROMPT_CHARACTERS, MAX_REQUEST_ID_BYTES, NUMBERS
from backdrop_server.triton.board import Board, board_path
from backdrop_server.triton.launcher import TritonServer
from tests import pictures

pytestmark = pytest.mark.triton

SAME_DB = 60.0
PROTOCOLS: dict[str, ModuleType] = {"grpc": grpcclient, "http": httpclient}
INVALID = {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"}
LEAK = re.compile(
    r"Traceback|File \"|\.py\b|(^|[\s'\"])/\w+/\w+|site-packages|Error\(|<class|\b0x[0-9a-f]{6}"
)
"""What no caller should read: traces, paths of the server, reprs of its objects."""

PHOTO = pictures.png(pictures.product())
FIELDS: dict[str, Any] = {
    "image": PHOTO,
    "ref_image": pictures.png(pictures.scene()),
    "prompt": "a wooden table",
    "scheduler": "DDIM",
    "num_inference_steps": 20,
    "seed": 7,
    "output_format": "png",
    "preserve_subject": False,
}
PICTURES = ("image", "ref_image", "mask_image")


def open_client(server: TritonServer, protocol: str) -> Any:
    if protocol == "grpc":
        return grpcclient.InferenceServerClient(server.grpc_url)
    return httpclient.InferenceServerClient(server.http_url, network_timeout=120)


@pytest.fixture(params=PROTOCOLS, scope="module")
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(server: TritonServer, protocol: str) -> Iterator[Any]:
    with open_client(server, protocol) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind(server: TritonServer) -> Iterator[None]:
    """After all the bad requests the board holds none, and a good one is served."""
    yield
    with open_client(server, "grpc") as client:
        assert len(replace(client, grpcclient, **FIELDS).images) == 1
    assert held(server) == 0


def held(server: TritonServer) -> int:
    return Board(board_path(server.pid)).count_live()


def refuse(protocol: str, call: Callable[[], object]) -> str:
    """The sentence with which ``call`` is refused as the caller's fault."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    message = str(caught.value.message())
    assert caught.value.status() == INVALID[protocol], message
    assert not LEAK.search(message), message
    assert "\n" not in message.strip(), message
    return message


def refuse_fields(client: Any, protocol: str, fields: dict[str, Any]) -> str:
    return refuse(protocol, lambda: replace(client, PROTOCOLS[protocol], **fields))


# --- which of two bad pictures is named ---

SMALLER = pictures.png(pictures.scene()[:90, :90])
BLANK = pictures.png(np.full((300, 300, 3), 200, np.uint8))


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"image": b"x", "ref_image": b"x"}, "image"),
        ({"image": b"x", "ref_image": None}, "image"),
        ({"ref_image": b"x", "mask_image": SMALLER}, "ref_image"),
        ({"ref_image": b"x", "image": BLANK}, "ref_image"),
        ({"ref_image": None, "image": BLANK}, "ref_image"),
        ({"image": BLANK, "mask_image": SMALLER}, "mask_image"),
    ],
)
def test_of_two_bad_pictures_the_first_is_named(
    client: Any, protocol: str, bad: dict[str, Any], named: str
) -> None:
    fields = {name: value for name, value in (FIELDS | bad).items() if value is not None}
    assert f"', {named}: " in refuse_fields(client, protocol, fields)


# --- values that the contract refuses -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bad:
    """Fields of a bad request, the one at fault, and what the sentence must say is allowed."""

    fields: dict[str, Any]
    field: str
    allowed: str


def past(name: str) -> Iterator[tuple[str, Any]]:
    """Values just outside the range of a number, and far outside it."""
    number = NUMBERS[name]
    if number.integer:
        top = np.iinfo(np.int64 if name == "seed" else np.int32)
        yield from [("low", int(number.low) - 1), ("high", int(number.high) + 1)]
        yield from [("least", int(top.min)), ("most", int(top.max))]
        return
    low, high = np.float32(number.low), np.float32(number.high)
    yield "low", float(np.nextafter(low, np.float32(-np.inf)))
    yield "high", float(np.nextafter(high, np.float32(np.inf)))
    yield from [("nan", float("nan")), ("inf", float("inf")), ("-inf", float("-inf"))]


def numbers() -> Iterator[tuple[str, Bad]]:
    for name, number in NUMBERS.items():
        allowed = f"from {number.low:.15g} to {number.high:.15g}"
        for side, value in past(name):
            yield f"{name} {side}", Bad({name: value}, name, allowed)


def broken_pictures() -> Iterator[tuple[str, Bad]]:
    whole = pictures.png(pictures.product())
    wide = pictures.png(np.zeros((8, 2049), np.uint8))
    tall = pictures.png(np.zeros((2049, 8), np.uint8))
    for name in PICTURES:
        yield f"{name} broken", Bad({name: b"\x89PNG\r\n\x1a\n" + b"x" * 99}, name, "complete")
        yield f"{name} not a picture", Bad({name: b"hello"}, name, "PNG, JPEG, GIF or WEBP")
        yield f"{name} empty", Bad({name: b""}, name, "PNG, JPEG, GIF or WEBP")
        yield f"{name} truncated", Bad({name: whole[: len(whole) // 2]}, name, "complete")
        yield f"{name} 2049 px wide", Bad({name: wide}, name, "2048x2048")
        yield f"{name} 2049 px tall", Bad({name: tall}, name, "2048x2048")


def texts() -> Iterator[tuple[str, Bad]]:
    for name in ("prompt", "negative_prompt", "scheduler", "output_format"):
        yield f"{name} not UTF-8", Bad({name: b"\xff\xfe\x00"}, name, "UTF-8")
    for name in ("prompt", "negative_prompt"):
        text = "é" * (MAX_PROMPT_CHARACTERS + 1)
        yield f"{name} too long", Bad({name: text}, name, f"at most {MAX_PROMPT_CHARACTERS}")
    for value in ("", "Euler b", "DPM2  Karras", "x" * 5000, "../../etc/passwd"):
        yield f"scheduler {value[:20]!r}", Bad({"scheduler": value}, "scheduler", "DPM2 Karras")
    for value in ("", "gif", "image/png", "\x00"):
        yield f"output_format {value!r}", Bad({"output_format": value}, "output_format", "webp")


FLAT = pictures.png(np.full((100, 120, 3), 250, np.uint8))
CLEAR = pictures.png(np.zeros((100, 120, 4), np.uint8))
OTHERS: dict[str, Bad] = {
    "mask of another size": Bad(
        {"mask_image": pictures.png(pictures.product_mask(301, 200))}, "mask_image", "photo's size"
    ),
    "mask turned": Bad(
        {"mask_image": pictures.png(pictures.product_mask(200, 300))}, "mask_image", "photo's size"
    ),
    "no subject": Bad({"image": FLAT}, "image", "mask_image"),
    "no subject, transparent": Bad({"image": CLEAR}, "image", "mask_image"),
}
TABLE = dict([*numbers(), *broken_pictures(), *texts()]) | OTHERS


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_value_is_refused_by_name(
    server: TritonServer, client: Any, protocol: str, name: str
) -> None:
    bad = TABLE[name]
    message = refuse_fields(client, protocol, FIELDS | bad.fields)
    assert f"{bad.field}: " in message
    assert bad.allowed in message
    assert len(message) < 500
    assert held(server) == 0


def test_the_first_bad_field_is_enough(client: Any, protocol: str) -> None:
    fields = FIELDS | {"image": b"", "samples": 9, "scheduler": "no"}
    assert ": " in refuse_fields(client, protocol, fields)


def test_a_request_id_that_is_too_long_is_refused(client: Any, protocol: str) -> None:
    fits, too_long = "i" * MAX_REQUEST_ID_BYTES, "i" * (MAX_REQUEST_ID_BYTES + 1)
    module = PROTOCOLS[protocol]
    answer = replace(client, module, request_id=fits, **(FIELDS | {"strength": 0.0}))
    assert answer.report["request_id"] == fits
    message = refuse(protocol, lambda: replace(client, module, request_id=too_long, **FIELDS))
    assert "request id: " in message and f"{MAX_REQUEST_ID_BYTES} bytes" in message


# --- tensors that Triton itself refuses -----------------------------------------------------------


def infer(client: Any, protocol: str, inputs: list[Any]) -> Any:
    return client.infer(MODEL, inputs)


def tensor(protocol: str, name: str, datatype: str, array: Any) -> Any:
    module: Any = PROTOCOLS[protocol]
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


WRONG_TENSORS: dict[str, tuple[str, str, Any]] = {
    "datatype FP32 for INT32": ("samples", "FP32", np.ones((1, 1), np.float32)),
    "datatype INT32 for INT64": ("seed", "INT32", np.ones((1, 1), np.int32)),
    "datatype FP64 for FP32": ("strength", "FP64", np.ones((1, 1), np.float64)),
    "datatype INT32 for BOOL": ("preserve_subject", "INT32", np.ones((1, 1), np.int32)),
    "datatype UINT8 for BYTES": ("image", "UINT8", np.ones((1, 1), np.uint8)),
    "shape [1]": ("samples", "INT32", np.ones(1, np.int32)),
    "shape [1, 2]": ("samples", "INT32", np.ones((1, 2), np.int32)),
    "shape [1, 1, 1]": ("samples", "INT32", np.ones((1, 1, 1), np.int32)),
    "shape [1, 0]": ("samples", "INT32", np.ones((1, 0), np.int32)),
    "two prompts": ("prompt", "BYTES", np.array([[b"a", b"b"]], np.object_)),
    "another batch than the rest": ("samples", "INT32", np.ones((2, 1), np.int32)),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_a_wrong_tensor_is_refused_by_name(client: Any, protocol: str, name: str) -> None:
    field, datatype, array = WRONG_TENSORS[name]
    others = {key: value for key, value in FIELDS.items() if key != field}
    inputs = infer_inputs(PROTOCOLS[protocol], others)
    inputs.append(tensor(protocol, field, datatype, array))
    assert field in refuse(protocol, lambda: infer(client, protocol, inputs))


def test_a_batch_of_two_is_refused(client: Any, protocol: str) -> None:
    required = {name: FIELDS[name] for name in ("image", "ref_image", "prompt")}
    inputs = [
        tensor(protocol, name, "BYTES", np.array([[value], [value]], np.object_))
        for name, value in required.items()
    ]
    assert "batch-size must be <= 1" in refuse(protocol, lambda: infer(client, protocol, inputs))


@pytest.mark.parametrize("missing", ["image", "ref_image", "prompt"])
def test_a_missing_required_input_is_refused_by_name(
    client: Any, protocol: str, missing: str
) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != missing}
    assert f"{missing}: it is missing" in refuse_fields(client, protocol, fields)


def test_an_unknown_input_is_refused_by_name(client: Any, protocol: str) -> None:
    inputs = infer_inputs(PROTOCOLS[protocol], FIELDS)
    inputs.append(tensor(protocol, "colour", "INT32", np.ones((1, 1), np.int32)))
    assert "colour" in refuse(protocol, lambda: infer(client, protocol, inputs))


def test_the_client_knows_its_fields(client: Any, protocol: str) -> None:
    with pytest.raises(TypeError, match="colour is not a field"):
        replace(client, PROTOCOLS[protocol], colour=1, **FIELDS)


# --- one bad one among eight good ones ------------------------------------------------------------

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("grpc", {"scheduler": "DDIM"}),
    ("http", {"scheduler": "Euler a", "num_inference_steps": 25}),
    ("grpc", {"samples": 2}),
    ("http", {"image": pictures.png(pictures.product(203, 701))}),
    ("grpc", {"strength": 0.7, "scheduler": "DPM2 Karras"}),
    ("http", {"cn_weight": 0.2, "guidance_scale": 1.0, "num_inference_steps": 40}),
    ("grpc", {"scheduler": "UniPC", "seed": 99}),
    ("http", {"ip_adapter_weight": 1.0, "prompt": ""}),
]
AMONG_GOOD = {
    "broken picture": TABLE["image truncated"],
    "out-of-range value": TABLE["guidance_scale high"],
    "unknown sampler": TABLE["scheduler 'Euler b'"],
    "2049 px": TABLE["image 2049 px wide"],
}


def send(server: TritonServer, protocol: str, fields: dict[str, Any]) -> Replaced:
    with open_client(server, protocol) as client:
        return replace(client, PROTOCOLS[protocol], **fields)


@pytest.fixture(scope="module")
def alone(server: TritonServer) -> list[Replaced]:
    return [send(server, protocol, FIELDS | options) for protocol, options in GOOD]


def test_bad_ones_among_eight_good_ones(server: TritonServer, alone: list[Replaced]) -> None:
    """Each kind of bad one, over both protocols, while all eight are in flight."""
    with ThreadPoolExecutor(len(GOOD)) as pool:
        good = [pool.submit(send, server, name, FIELDS | options) for name, options in GOOD]
        for protocol in PROTOCOLS:
            for bad in AMONG_GOOD.values():
                with open_client(server, protocol) as client:
                    message = refuse_fields(client, protocol, FIELDS | bad.fields)
                assert f"{bad.field}: " in message and bad.allowed in message
        unfinished = sum(not future.done() for future in good)
        together = [future.result() for future in good]
    assert unfinished >= 4  # the bad ones did come while good ones were in flight
    for one, other in zip(alone, together, strict=True):
        assert one.seeds == other.seeds
        for first, second in zip(one.images, other.images, strict=True):
            score = pictures.psnr(pictures.decode(first), pictures.decode(second))
            assert score >= SAME_DB, f"{score:.1f} dB"
    assert held(server) == 0
