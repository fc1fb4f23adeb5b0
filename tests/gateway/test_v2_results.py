"""Quotes, results by link, the sweep, idempotency keys, and the matte alone."""

from __future__ import annotations

import base64
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from backdrop_server.gateway.links import Signer
from backdrop_server.gateway.tables import jobs as jobs_table
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.gateway.servers import (
    GatewayProcess,
    body,
    gateway_process,
    in_base64,
    wait_for_end,
)

pytestmark = pytest.mark.triton


def submit(client: httpx.Client, **fields: object) -> str:
    """The id of a new job."""
    answer = client.post("/v2/bg-replace", json=body(**fields)).raise_for_status()
    return str(answer.json()["request_id"])


def balance_of(client: httpx.Client) -> Decimal:
    """The key's balance, as a quote's header says it."""
    answer = client.post("/v2/bg-replace", json=body(dry_run=True)).raise_for_status()
    return Decimal(answer.headers["x-remaining-credits"])


def jobs_in(gateway: GatewayProcess) -> int:
    """How many jobs there ever were."""
    with gateway.database() as database, database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(jobs_table)).scalar_one())


# --- quotes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/v1/bg-replace", "/v2/bg-replace"])
def test_a_quote_makes_and_costs_nothing(
    gateway: GatewayProcess, client: httpx.Client, url: str
) -> None:
    before = jobs_in(gateway)
    answer = client.post(url, json=body(dry_run=True, base64=True, samples=4))
    quote = answer.json()
    assert (quote["dry_run"], quote["seed"]) == (True, 7)
    estimate = quote["estimate"]
    assert estimate["unet_evaluations"] == 20
    assert 0 < Decimal(estimate["credits"]) < Decimal(estimate["reserved_credits"])
    assert Decimal(estimate["credits"]) == pytest.approx(
        Decimal("0.0015") * Decimal(estimate["seconds"]), rel=Decimal("0.01")
    )
    one = client.post(url, json=body(dry_run=True, base64=True)).json()["estimate"]
    assert one["seconds"] < estimate["seconds"]
    assert balance_of(client) == 1000
    assert jobs_in(gateway) == before


def test_the_bill_is_never_above_what_was_reserved(client: httpx.Client) -> None:
    quote = client.post("/v1/bg-replace", json=body(dry_run=True)).json()["estimate"]
    billed = Decimal(client.post("/v1/bg-replace", json=body()).headers["x-credits-consumed"])
    assert 0 < billed <= Decimal(quote["reserved_credits"])


# --- results --------------------------------------------------------------------------------------


def test_base64_in_v2(client: httpx.Client) -> None:
    linked = wait_for_end(client, submit(client))
    inline = wait_for_end(client, submit(client, base64=True))
    file = base64.b64decode(inline["output"][0], validate=True)
    assert file == httpx.get(linked["output"][0]).content
    assert inline["report"]["request_id"] == inline["request_id"]


def test_layers_lie_beside_the_pictures(client: httpx.Client) -> None:
    answers = [
        wait_for_end(client, submit(client, layers=True, samples=2, **more))
        for more in ({}, {"base64": True})
    ]
    links, texts = ([*a["layers"]["backgrounds"], a["layers"]["shadow"], a["layers"]["subject"]]
                    for a in answers)  # fmt: skip
    files = [httpx.get(link).raise_for_status().content for link in links]
    assert [base64.b64decode(text, validate=True) for text in texts] == files
    assert len(answers[0]["output"]) == 2
    first, second, shadow, subject = (Image.open(io.BytesIO(file)) for file in files)
    assert {layer.mode for layer in (first, second, shadow, subject)} == {"RGBA"}
    assert first.getchannel("A").getextrema() == (255, 255)
    assert subject.getchannel("A").getextrema() == (0, 255)
    plain = wait_for_end(client, submit(client, samples=2))
    assert "layers" not in plain
    assert httpx.get(plain["output"][0]).content == httpx.get(answers[0]["output"][0]).content


def test_v1_has_no_layers(client: httpx.Client) -> None:
    answer = client.post("/v1/bg-replace", json=body(layers=True))
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "layers: v1 answers with pictures alone; allowed: layers over v2 only"
    )


def test_a_link_needs_no_key_and_its_signature(client: httpx.Client) -> None:
    (link,) = wait_for_end(client, submit(client, output_format="png"))["output"]
    answer = httpx.get(link)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["x-content-type-options"] == "nosniff"
    parts = urlsplit(link)
    query = dict(parse_qsl(parts.query))
    assert 3500 < int(query["expires"]) - time.time() <= 3600
    other = submit(client)
    wait_for_end(client, other)
    bare = f"{parts.scheme}://{parts.netloc}"
    flipped = query["signature"][:-1] + ("0" if query["signature"][-1] != "0" else "1")
    for path, changes in (
        (parts.path, {"signature": flipped}),
        (parts.path, {"signature": ""}),
        (parts.path, {"signature": "é"}),
        (parts.path, {"expires": str(int(query["expires"]) + 1)}),
        (parts.path, {"expires": "-1"}),
        (parts.path, {"expires": "9" * 40}),
        (f"/v2/results/{other}/0.jpeg", {}),
        (parts.path.replace("0.png", "1.png"), {}),
        (parts.path.replace("0.png", "..%2f..%2fbackdrop.db"), {}),
        (f"{parts.path}/../../../backdrop.db", {}),
        ("/v2/results/..%2f..%2f/backdrop.db", {}),
    ):
        refused = httpx.get(bare + path, params=query | changes)
        assert refused.status_code == 404, path
        assert list(refused.json()) == ["error"]
    assert httpx.get(bare + parts.path).status_code == 404


def test_the_pictures_of_a_v1_call_were_in_its_answer(client: httpx.Client) -> None:
    job_id = client.post("/v1/bg-replace", json=body()).headers["x-request-id"]
    assert client.get(f"/v2/requests/{job_id}/status").json()["status"] == "COMPLETED"
    answer = client.get(f"/v2/requests/{job_id}")
    assert answer.status_code == 404
    assert "v1" in answer.json()["error"]


def test_results_are_swept_when_their_time_is_over(server: TritonServer, tmp_path: Path) -> None:
    with (
        gateway_process(tmp_path, server.http_url, keep_results=2) as gateway,
        gateway.client(gateway.make_key()) as client,
    ):
        inline, linked = submit(client, base64=True), submit(client)
        (link,) = wait_for_end(client, linked)["output"]
        wait_for_end(client, inline)
        assert httpx.get(link).status_code == 200
        expires = int(dict(parse_qsl(urlsplit(link).query))["expires"])
        deadline = time.monotonic() + 20
        while any((tmp_path / "pictures").iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not list((tmp_path / "pictures").iterdir())
        assert time.time() > expires
        assert httpx.get(link).status_code == 404
        time.sleep(0.5)
        for job_id in (inline, linked):
            assert "are gone" in client.get(f"/v2/requests/{job_id}").json()["error"]
            assert client.get(f"/v2/requests/{job_id}/status").json()["status"] == "COMPLETED"


def test_a_link_is_good_until_its_time_is_over(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    job_id = submit(client)
    wait_for_end(client, job_id)
    with gateway.database() as database:
        signer = Signer(database.secret("signing"))
    for seconds, status in ((60, 200), (0, 404), (-60, 404)):
        link = signer.link(gateway.url, job_id, "0.jpeg", time.time() + seconds)
        assert httpx.get(link).status_code == status


# --- idempotency ----------------------------------------------------------------------------------


def test_an_idempotency_key_on_v2(gateway: GatewayProcess, client: httpx.Client) -> None:
    named = {"Idempotency-Key": "order-1"}
    before = jobs_in(gateway)

    def send(_: int) -> str:
        answer = client.post("/v2/bg-replace", json=body(), headers=named).raise_for_status()
        return str(answer.json()["request_id"])

    with ThreadPoolExecutor(5) as pool:
        ids = set(pool.map(send, range(5)))
    (job_id,) = ids
    billed = Decimal(wait_for_end(client, job_id)["credits_consumed"])
    assert send(0) == job_id
    assert jobs_in(gateway) == before + 1
    assert balance_of(client) == 1000 - billed
    other = client.post("/v2/bg-replace", json=body(seed=8), headers=named)
    assert other.status_code == 400
    assert other.json()["error"].startswith("Idempotency-Key: another request")
    with gateway.client(gateway.make_key()) as stranger:  # names of one key are not another's
        theirs = stranger.post("/v2/bg-replace", json=body(), headers=named).json()
        assert theirs["request_id"] != job_id


def test_an_idempotency_key_on_v1(gateway: GatewayProcess, client: httpx.Client) -> None:
    named = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    before = jobs_in(gateway)

    def send(_: int) -> httpx.Response:
        return client.post("/v1/bg-replace", json=body(), headers=named).raise_for_status()

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(send, range(5)))
    answers.append(send(0))
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == 1
    (billed,) = {answer.headers["x-credits-consumed"] for answer in answers}
    assert jobs_in(gateway) == before + 1
    assert balance_of(client) == 1000 - Decimal(billed)
    other = client.post("/v1/bg-replace", json=body(seed=8), headers=named)
    assert other.status_code == 400


def test_a_failed_job_is_failed_again_under_its_idempotency_key(client: httpx.Client) -> None:
    wrong = body(image=in_base64(pictures.damaged_png()))
    named = {"Idempotency-Key": "damaged"}
    first, again = (client.post("/v1/bg-replace", json=wrong, headers=named) for _ in range(2))
    assert first.status_code == again.status_code == 400
    assert first.json() == again.json()
    assert balance_of(client) == 1000


@pytest.mark.parametrize("text", ["", "x" * 256, "two words"])
def test_idempotency_keys_that_are_none(client: httpx.Client, text: str) -> None:
    answer = client.post("/v2/bg-replace", json=body(), headers={"Idempotency-Key": text})
    assert answer.status_code == 400
    assert re.match("Idempotency-Key: .*; allowed: ", answer.json()["error"])


# --- the matte ------------------------------------------------------------------------------------


def test_the_matte_alone_is_free(gateway: GatewayProcess, client: httpx.Client) -> None:
    before = jobs_in(gateway)
    photo = in_base64(pictures.png(pictures.product()))
    answer = client.post("/v2/bg-replace/matte", json={"image": photo})
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.mode, picture.size) == ("L", (300, 200))
    product = pictures.product_mask() == 0
    assert np.mean((np.asarray(picture) > 127) == product) > 0.98
    assert jobs_in(gateway) == before
    assert balance_of(client) == 1000


def test_the_matte_of_a_mask_is_the_mask(client: httpx.Client) -> None:
    mask = pictures.product_mask()
    mask[:, :150] = 255
    fields = {
        "image": in_base64(pictures.png(pictures.product())),
        "mask_image": in_base64(pictures.png(mask)),
    }
    answer = client.post("/v2/bg-replace/matte", json=fields)
    matte = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(matte > 127, mask == 0)


def test_what_the_matte_refuses(gateway: GatewayProcess, client: httpx.Client) -> None:
    photo = in_base64(pictures.png(pictures.product()))
    for fields, field in (
        ({}, "image"),
        ({"image": "%%%"}, "image"),
        ({"image": in_base64(pictures.damaged_png())}, "image"),
        ({"image": photo, "mask_image": in_base64(pictures.png(pictures.scene()))}, "mask_image"),
        ({"image": photo, "prompt": "x"}, "prompt"),
    ):
        answer = client.post("/v2/bg-replace/matte", json=fields)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(f"{field}: ")
    answer = httpx.post(f"{gateway.url}/v2/bg-replace/matte", json={"image": photo})
    assert answer.status_code == 401
