"""Every field's bounds, types and names over HTTP; each refusal names the field."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from backdrop_server.contract import (
    NUMBERS,
    OUTPUT_FORMATS,
    SCHEDULER_ALIASES,
    SCHEDULERS,
    unet_evaluations,
)
from tests import pictures
from tests.gateway.servers import GatewayProcess, body, in_base64

pytestmark = pytest.mark.triton
URL = "/v1/bg-replace"
WRONG_TYPES = ("1", "", True, [1], {"a": 1}, "x" * 100_000)
FLAGS = ("base64", "preserve_subject", "dry_run")
PICTURES = ("image", "ref_image", "mask_image")


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    """A request that is checked in full and then only quoted."""
    return client.post(URL, json=body(**({"dry_run": True} | fields)))


def raw(client: httpx.Client, text: str | bytes) -> str:
    """The sentence that a body which is no proper JSON is refused with."""
    answer = client.post(URL, content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"])


def refused(answer: httpx.Response, field: str) -> str:
    """The sentence of a refusal: it names the field, and says what is allowed."""
    assert answer.status_code == 400, answer.text
    error = str(answer.json()["error"])
    name, _, rest = error.partition(": ")
    assert name == field, error
    assert "; allowed: " in rest
    assert len(error) < 500, error[:200]
    return error


@pytest.mark.parametrize("name", NUMBERS)
def test_both_bounds_are_in_and_one_past_them_is_out(client: httpx.Client, name: str) -> None:
    number = NUMBERS[name]
    samples = {"base64": True}
    assert ask(client, **samples | {name: number.low}).status_code == 200
    assert ask(client, **samples | {name: number.high}).status_code == 200
    if number.integer:
        past: list[float] = [int(number.low) - 1, int(number.high) + 1]
    else:
        past = [math.nextafter(number.low, -math.inf), math.nextafter(number.high, math.inf)]
    for value in past:
        error = refused(ask(client, **{name: value}), name)
        assert error.endswith(f"; allowed: {number.allowed}")


@pytest.mark.parametrize("name", NUMBERS)
def test_other_types_than_numbers_are_refused(client: httpx.Client, name: str) -> None:
    for value in WRONG_TYPES:
        assert "is not a number" in refused(ask(client, **{name: value}), name)
    if NUMBERS[name].integer:
        assert "is not a whole number" in refused(ask(client, **{name: 20.5}), name)
        assert ask(client, **{name: float(NUMBERS[name].high)}).status_code == 200


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_beyond_every_machine_type_are_refused(client: httpx.Client, name: str) -> None:
    text = json.dumps(body(dry_run=True) | {name: "HERE"})
    for number in ("9" * 400, "-" + "9" * 400, "1e400", "9" * 4000):
        assert raw(client, text.replace('"HERE"', number)).startswith(f"{name}: ")


@pytest.mark.parametrize("name", NUMBERS)
def test_nan_and_infinity_are_no_json(client: httpx.Client, name: str) -> None:
    text = json.dumps(body(dry_run=True) | {name: "HERE"})
    for number in ("NaN", "Infinity", "-Infinity"):
        assert raw(client, text.replace('"HERE"', number)).startswith("body: it is not valid JSON")


def test_null_is_as_good_as_absent(client: httpx.Client) -> None:
    optional = [*NUMBERS, *FLAGS, "scheduler", "output_format", "negative_prompt", "mask_image"]
    for name in set(optional) - {"dry_run"}:
        assert ask(client, **{name: None}).status_code == 200, name
    for name in ("image", "ref_image", "prompt"):
        assert "it is missing" in refused(ask(client, **{name: None}), name)


@pytest.mark.parametrize("name", ["image", "ref_image", "prompt"])
def test_what_is_required(client: httpx.Client, name: str) -> None:
    fields = body(dry_run=True)
    del fields[name]
    assert "it is missing" in refused(client.post(URL, json=fields), name)


def test_every_scheduler_and_alias(client: httpx.Client) -> None:
    for name in SCHEDULERS:
        quote = ask(client, scheduler=name, num_inference_steps=20).json()["estimate"]
        assert quote["unet_evaluations"] == unet_evaluations(name, 20, 1.0)
        assert ask(client, scheduler=f" {name.upper()} ").status_code == 200
    for alias in SCHEDULER_ALIASES:
        assert ask(client, scheduler=alias).status_code == 200, alias
    for wrong in ("", "Euler b", 5, True, ["Euler"]):
        assert "DPM2 Karras" in refused(ask(client, scheduler=wrong), "scheduler")


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_every_output_format(client: httpx.Client, name: str) -> None:
    answer = client.post(URL, json=body(base64=False, output_format=name))
    assert answer.headers["content-type"] == f"image/{name}"
    assert pictures.decode(answer.content).shape == (200, 300, 3)
    assert ask(client, output_format=name.upper()).status_code == 200


def test_unknown_output_formats(client: httpx.Client) -> None:
    assert ask(client, output_format="jpg").status_code == 200
    for wrong in ("gif", "", 1, False):
        refused(ask(client, output_format=wrong), "output_format")


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_booleans(client: httpx.Client, name: str) -> None:
    for wrong in ("true", "false", 0, 1, ["true"]):
        refused(ask(client, **{name: wrong}), name)


def test_prompts(client: httpx.Client) -> None:
    for name in ("prompt", "negative_prompt"):
        assert ask(client, **{name: "ж" * 10_000}).status_code == 200
        assert "10001 characters" in refused(ask(client, **{name: "ж" * 10_001}), name)
        refused(ask(client, **{name: 5}), name)


def test_unknown_fields(client: httpx.Client) -> None:
    assert "it is not known" in refused(ask(client, steps=20), "steps")
    long = client.post(URL, json=body(**{"é" * 10_000: 1}))
    assert long.status_code == 400
    assert len(long.json()["error"]) < 1000


def test_a_body_that_is_no_json_object(client: httpx.Client) -> None:
    for text in ("", "{", "nothing", '{"prompt": "x",}', "[]", "5", "null", '"image"'):
        assert raw(client, text).startswith("body: ")
    for data in (b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', "\ufeff{}".encode("utf-16")):
        assert raw(client, data).startswith("body: it is not valid JSON")
    assert "recursion" in raw(client, "[" * 100_000)
    assert "recursion" in raw(client, '{"prompt": ' * 10_000)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_none(client: httpx.Client, name: str) -> None:
    png = pictures.png(pictures.product())
    wrong: dict[object, str] = {
        5: "it is not text",
        "": "it is empty",
        "%%%": "it is not valid base64",
        "data:image/png": "its data URI is not base64",
        "data:image/png,%89PNG": "its data URI is not base64",
        "data:image/png;base64,%%%": "it is not valid base64",
        in_base64(b"plain text"): "it is not a picture of a known format",
        in_base64(png[:60]): "it is damaged or cut short",
        in_base64(b"%PDF-1.7"): "it is not a picture of a known format",
        "ftp://example.com/a.png": "it is not valid base64",
        "http://127.0.0.1/a.png": "the URL leads to a private or reserved address",
    }
    for value, problem in wrong.items():
        assert problem in refused(ask(client, **{name: value}), name)


def test_a_picture_with_damaged_pixels(client: httpx.Client) -> None:
    for name in PICTURES:
        answer = client.post(URL, json=body(**{name: in_base64(pictures.damaged_png())}))
        assert "damaged" in refused(answer, name)


def test_forms_of_a_picture(client: httpx.Client) -> None:
    text = in_base64(pictures.png(pictures.product()))
    forms = [
        f"data:image/png;base64,{text}",
        text.rstrip("="),
        text.replace("+", "-").replace("/", "_"),
        "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
    ]
    assert [ask(client, image=form).status_code for form in forms] == [200] * len(forms)


def test_a_picture_of_2049_pixels(client: httpx.Client) -> None:
    for size in ((2049, 16), (16, 2049)):
        wrong = in_base64(pictures.png(pictures.product(*size)))
        assert "2048x2048" in refused(ask(client, image=wrong), "image")
    right = in_base64(pictures.png(pictures.product(2048, 16)))
    assert ask(client, image=right, ref_image=right).status_code == 200


def test_a_mask_of_another_size(client: httpx.Client) -> None:
    wrong = in_base64(pictures.png(pictures.product_mask(301, 200)))
    error = refused(ask(client, mask_image=wrong), "mask_image")
    assert "301x200" in error
    assert "300x200" in error
    right = in_base64(pictures.png(pictures.product_mask()))
    assert ask(client, mask_image=right).status_code == 200


def test_a_webhook_is_for_v2(client: httpx.Client) -> None:
    refused(ask(client, webhook_url="https://example.com/hook"), "webhook_url")
    for wrong in (5, "", "example.com/hook", "https://" + "x" * 3000, "http://127.0.0.1/hook"):
        answer = client.post("/v2/bg-replace", json=body(webhook_url=wrong, dry_run=True))
        refused(answer, "webhook_url")


@pytest.mark.parametrize("wrong", [0, 0.99, 3600.5, -1, 1e300, True, "5", [5]])
def test_a_wrong_timeout(client: httpx.Client, wrong: object) -> None:
    assert "seconds from 1 to 3600" in refused(ask(client, timeout=wrong), "timeout")


@pytest.mark.parametrize("right", [1, 3600, 59.5, None])
def test_a_right_timeout(client: httpx.Client, right: object) -> None:
    assert ask(client, timeout=right, dry_run=True).status_code == 200


def test_the_default_of_base64_is_a_setting(gateway: GatewayProcess, client: httpx.Client) -> None:
    assert gateway.settings.base64_default
    assert client.post(URL, json=body()).headers["content-type"] == "application/json"
    answer = client.post(URL, json=body(base64=None))
    assert answer.headers["content-type"] == "application/json"
