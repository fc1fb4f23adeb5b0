"""Every row of the status table, provoked at a real gateway; its headers; what is billed."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import func, select

from backdrop_server.gateway import keys
from backdrop_server.gateway.tables import ledger as ledger_table
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.gateway.servers import GatewayProcess, body, free_port, gateway_process, in_base64

pytestmark = pytest.mark.triton
URL = "/v1/bg-replace"
LONG = body(base64=True, num_inference_steps=100, scheduler="DPM2 Karras", samples=4)


def error_of(answer: httpx.Response, status: int) -> str:
    """The one sentence of a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 32
    content = answer.json()
    assert list(content) == ["error"]
    assert "Traceback" not in content["error"]
    return str(content["error"])


def consumed_of(gateway: GatewayProcess, job_id: str) -> Decimal:
    """What the ledger says that a job has cost."""
    amounts = select(func.sum(ledger_table.c.amount)).where(ledger_table.c.job_id == job_id)
    with gateway.database() as database, database.reading() as connection:
        return -Decimal(connection.execute(amounts).scalar_one())


def balance_of(client: httpx.Client) -> Decimal:
    """The key's balance, as a quote's header says it."""
    answer = client.post(URL, json=body(dry_run=True)).raise_for_status()
    assert answer.headers["x-credits-consumed"] == "0"
    return Decimal(answer.headers["x-remaining-credits"])


@pytest.fixture(scope="module")
def strict(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway that takes one job at once and small bodies."""
    settings = {"max_in_flight": 1, "max_waiting": 0, "max_body_bytes": 200_000}
    folder = tmp_path_factory.mktemp("strict")
    with gateway_process(folder, server.http_url, **settings) as running:
        yield running


def test_200_bytes(gateway: GatewayProcess, client: httpx.Client) -> None:
    before = balance_of(client)
    answer = client.post(URL, json=body(base64=False))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-seed"] == "7"
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == ("JPEG", (300, 200))
    consumed = Decimal(answer.headers["x-credits-consumed"])
    assert consumed > 0
    assert consumed == consumed_of(gateway, answer.headers["x-request-id"])
    assert Decimal(answer.headers["x-remaining-credits"]) == before - consumed


def test_200_json_of_one_sample_by_default(client: httpx.Client) -> None:
    answer = client.post(URL, json=body())
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["image"]
    file = base64.b64decode(answer.json()["image"], validate=True)
    assert Image.open(io.BytesIO(file)).format == "JPEG"


def test_200_json_of_several_samples(client: httpx.Client) -> None:
    answer = client.post(URL, json=body(samples=3, seed=999_999_999_999_998))
    assert list(answer.json()) == ["images"]
    assert len(set(answer.json()["images"])) == 3
    assert answer.headers["x-seed"] == "999999999999998,999999999999999,0"


def test_a_random_seed_is_told_and_gives_the_same_picture_again(client: httpx.Client) -> None:
    first = client.post(URL, json=body(seed=-1))
    again = client.post(URL, json=body(seed=int(first.headers["x-seed"])))
    assert first.json() == again.json()


def test_400_for_several_samples_as_bytes(client: httpx.Client) -> None:
    error = error_of(client.post(URL, json=body(samples=2, base64=False)), 400)
    assert error.startswith("samples: ")
    assert "base64" in error


def test_401(gateway: GatewayProcess) -> None:
    expired = gateway.make_key(expires_at=time.time() + 1)
    revoked = gateway.make_key()
    with gateway.database() as database, database.writing() as connection:
        keys.revoke(connection, revoked.split("_")[1])
    time.sleep(1)
    wrong = f"{revoked[:-1]}{'A' if revoked[-1] != 'A' else 'B'}"
    expected = {"": "missing", "SG_1234": "unknown", wrong: "unknown", revoked: "revoked"}
    for key, word in (expected | {expired: "expired"}).items():
        with gateway.client(key) as client:
            assert word in error_of(client.post(URL, json=body(dry_run=True)), 401)


def test_404_and_405(client: httpx.Client) -> None:
    assert error_of(client.post("/v1/bg-remove", json=body()), 404) == (
        "there is no such URL: /v1/bg-remove"
    )
    # Not redirected either: that would go by the Host header, and take the key along.
    stray = client.post(f"{URL}/", json=body(), headers={"host": "elsewhere.example"})
    assert error_of(stray, 404) == f"there is no such URL: {URL}/"
    answer = client.get(URL)
    assert error_of(answer, 405) == "this URL does not take GET"
    assert answer.headers["allow"] == "POST"
    answer = client.put("/v2/requests/0")
    error_of(answer, 405)
    assert answer.headers["allow"] == "DELETE, GET"


def test_406(gateway: GatewayProcess) -> None:
    with gateway.client(gateway.make_key("0.0001")) as poor:
        error = error_of(poor.post(URL, json=body()), 406)
        assert error.startswith("not enough credits: ")
        assert balance_of(poor) == Decimal("0.0001")
    with gateway.client(gateway.make_key("0")) as penniless:
        error_of(penniless.post(URL, json=body()), 406)


def test_413_declared(strict: GatewayProcess) -> None:
    with strict.client(strict.make_key()) as client:
        error = error_of(client.post(URL, json=body(prompt="x" * 3_000_000)), 413)
        assert error == "the body is larger than 200000 bytes"


def test_413_chunked(strict: GatewayProcess) -> None:
    data = json.dumps(body(prompt="x" * 3_000_000)).encode()
    chunks = [data[at : at + 10_000] for at in range(0, len(data), 10_000)]
    with strict.client(strict.make_key()) as client:
        answer = client.post(
            URL, content=iter(chunks), headers={"content-type": "application/json"}
        )
        assert "larger than 200000 bytes" in error_of(answer, 413)
        assert balance_of(client) == 1000


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_415(client: httpx.Client, kind: str) -> None:
    data = json.dumps(body()).encode()
    answer = client.post(URL, content=data, headers={"content-type": kind} if kind else {})
    assert "application/json" in error_of(answer, 415)


def test_429(gateway: GatewayProcess) -> None:
    with gateway.client(gateway.make_key(requests_per_minute=2)) as client:
        answers = [
            client.post(URL, json=body(dry_run=True)) for _ in range(5)
        ]  # three in one minute
        refused = answers[-1]
        assert "too many requests" in error_of(refused, 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert [answer.status_code for answer in answers[:2]] == [200, 200]


def test_503_at_capacity(strict: GatewayProcess) -> None:
    with (
        strict.client(strict.make_key()) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        answers = list(pool.map(lambda _: client.post(URL, json=LONG), range(6)))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert refused
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in refused:
            assert "at capacity" in error_of(answer, 503)
            assert 1 <= int(answer.headers["retry-after"]) <= 120
        paid = sum(
            Decimal(answer.headers["x-credits-consumed"])
            for answer in answers
            if answer.status_code == 200
        )
        assert balance_of(client) == 1000 - paid


def test_503_without_a_triton(tmp_path: Any) -> None:
    gateway = GatewayProcess(tmp_path, f"127.0.0.1:{free_port()}", patience=1)
    gateway.start(until_ready=False)
    try:
        for _ in itertools.repeat(None, 200):
            try:
                httpx.get(f"{gateway.url}/healthz").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        with gateway.client(gateway.make_key()) as client:
            assert error_of(client.get("/readyz"), 503) == "no Triton is up"
            answer = client.post(URL, json=body())
            assert "no Triton has answered yet" in error_of(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
    finally:
        gateway.stop()


def test_500_tells_the_request_id_and_no_more(server: TritonServer, tmp_path: Any) -> None:
    with gateway_process(tmp_path, server.http_url) as gateway:
        store = tmp_path / "pictures"
        shutil.rmtree(store, ignore_errors=True)
        store.write_text("no folder can be made here")
        with gateway.client(gateway.make_key()) as client:
            answer = client.post("/v2/bg-replace", json=body())
            request_id = answer.headers["x-request-id"]
            assert error_of(answer, 500) == (
                f"the server failed at this request; its log says why under {request_id}"
            )
            assert balance_of(client) == 1000
        lines = [json.loads(line) for line in gateway.log_file.read_text().splitlines()]
        (failure,) = [line for line in lines if "exc_info" in line]
        assert failure["request_id"] == request_id
        assert "NotADirectoryError" in failure["exc_info"] or "FileExists" in failure["exc_info"]


def test_refused_and_failed_requests_are_not_billed(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    for fields in (
        {"samples": 5},
        {"image": in_base64(pictures.damaged_png())},
        {"image": "nothing"},
    ):
        answer = client.post(URL, json=body(**fields))
        error_of(answer, 400)
        assert balance_of(client) == 1000
