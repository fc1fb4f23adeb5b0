"""Each error by its type, from a real gateway and a real Triton; and no key in any of them."""

from __future__ import annotations

import asyncio
import http.server
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from backdrop_client import (
    AsyncBackdrop,
    Backdrop,
    BackdropError,
    InvalidInput,
    JobFailed,
    MissingExtra,
    NotEnoughCredits,
    NotFound,
    Overloaded,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
)
from backdrop_client.errors import error_of_answer, error_of_job
from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.client.samples import fields
from tests.gateway.servers import GatewayProcess, free_port, gateway_process

triton_marked = pytest.mark.triton


def refused(client: Any, kind: type[BackdropError], **wrong: Any) -> BackdropError:
    """The error of a request; of exactly that type."""
    with pytest.raises(kind) as caught:
        client.replace(**fields(**wrong))
    assert type(caught.value) is kind
    assert caught.value.message == str(caught.value)
    return caught.value


@triton_marked
def test_a_wrong_key(gateway: GatewayProcess) -> None:
    key = "bd_" + "x" * 40
    with Backdrop(gateway.url, key) as client:
        error = refused(client, Unauthorized)
    assert (error.status, error.code, error.field) == (401, "unauthorized", None)
    assert key not in f"{error}{error!r}{client!r}"


@triton_marked
@pytest.mark.parametrize(
    ("wrong", "field", "allowed"),
    [
        ({"samples": 5}, "samples", "a whole number from 1 to 4"),
        ({"samples": 2.5}, "samples", "a whole number"),
        ({"scheduler": "Eulr"}, "scheduler", "DDIM, DPM Multi"),
        ({"image": b"no picture"}, "image", "PNG"),
        ({"image": pictures.damaged_png()}, "image", "complete picture file"),
        ({"preserve_subject": "yes"}, "preserve_subject", "true, false"),
        ({"mask_image": pictures.png(pictures.scene())}, "mask_image", "the photo's size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_wrong_field_is_named_over_rest_and_triton(
    wrong: dict[str, Any], field: str, allowed: str, client: Backdrop, server: TritonServer
) -> None:
    with Backdrop.triton(server.grpc_url) as triton:
        for each in (client, triton):
            error = refused(each, InvalidInput, **wrong)
            assert (error.field, error.code) == (field, "invalid_input")
            assert allowed in error.message


@triton_marked
def test_no_credits(gateway: GatewayProcess) -> None:
    with Backdrop(gateway.url, gateway.make_key("0")) as client:
        error = refused(client, NotEnoughCredits)
        assert client.credits() == 0
    assert (error.status, error.code) == (406, "not_enough_credits")
    assert "0 are there" in error.message


@triton_marked
def test_over_the_rate(gateway: GatewayProcess) -> None:
    with Backdrop(gateway.url, gateway.make_key(requests_per_minute=1), retries=0) as client:
        client.quote(**fields())
        error = refused(client, Overloaded)
    assert isinstance(error, Overloaded)
    assert error.status == 429
    assert error.retry_after is not None
    assert 1 <= error.retry_after <= 60


@triton_marked
def test_results_that_are_gone(server: TritonServer, tmp_path: Any) -> None:
    with (
        gateway_process(tmp_path, server.http_url, keep_results=1) as gateway,
        Backdrop(gateway.url, gateway.make_key()) as client,
    ):
        job = client.submit(**fields())
        job.wait()
        with pytest.raises(NotFound, match="the results were kept for 1 s and are gone") as caught:
            while True:
                job.wait()
    assert caught.value.status == 404


@pytest.mark.parametrize("kind", ["sync", "async", "triton"])
def test_nobody_there(kind: str) -> None:
    url = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnreachable, match=url.replace(".", r"\.")) as caught:
        if kind == "async":
            asyncio.run(ask_nobody(f"http://{url}"))
        elif kind == "sync":
            with Backdrop(f"http://{url}", "bd_key", retries=0) as client:
                client.replace(**fields())
        else:
            with Backdrop.triton(url) as triton:
                triton.replace(**fields())
    assert caught.value.status is None
    assert "bd_key" not in str(caught.value)


async def ask_nobody(url: str) -> None:
    async with AsyncBackdrop(url, "bd_key", retries=0) as client:
        await client.replace(**fields())


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        words = b"<html>welcome</html>" if self.path.startswith("/v2/credits") else b"{}"
        self.send_response(500 if "status" in self.path else 200)
        self.send_header("content-length", str(len(words)))
        self.end_headers()
        self.wfile.write(words)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[str]:
    """The URL of a web server that is no gateway."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_server_that_is_no_gateway(stranger: str) -> None:
    with Backdrop(stranger, "bd_key", retries=0) as client:
        with pytest.raises(ServerFailed, match="not that of a Backdrop gateway"):
            client.credits()
        with pytest.raises(ServerFailed, match=r"^the server answered with status 500$") as caught:
            client.job("1").status()
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput), (401, Unauthorized), (403, Unauthorized), (404, NotFound),
        (406, NotEnoughCredits), (413, InvalidInput), (415, InvalidInput), (418, ServerFailed),
        (429, Overloaded), (500, ServerFailed), (502, Overloaded), (503, Overloaded),
    ],
)  # fmt: skip
def test_statuses(status: int, kind: type[BackdropError]) -> None:
    error = error_of_answer(status, b'{"error": "a sentence"}', {"retry-after": "7"})
    assert type(error) is kind
    assert (error.message, error.status, error.field) == ("a sentence", status, None)
    if isinstance(error, Overloaded):
        assert error.retry_after == 7
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    assert (type(copy), vars(copy)) == (kind, vars(error))


def test_a_job_that_failed() -> None:
    error = error_of_job("the server failed at this request", 422)
    assert type(error) is JobFailed
    assert error.code == "job_failed"


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8080", "http://", "http://h:port", "http://a\n"]
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^url: it is no address of a gateway"):
        Backdrop(url, "bd_key")


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_a_key_that_cannot_be_one_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKDROP_KEY", raising=False)
    with pytest.raises(Unauthorized) as caught:
        Backdrop(key=key)
    assert not key or key.strip() not in str(caught.value)


def test_url_and_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_KEY", "bd_secret")
    monkeypatch.delenv("BACKDROP_URL", raising=False)
    with Backdrop() as client:
        assert repr(client) == "Backdrop('http://127.0.0.1:8080')"
        assert client._http.headers["x-api-key"] == "bd_secret"
    monkeypatch.setenv("BACKDROP_URL", "https://user:password@example.com/api/")
    with Backdrop() as client:
        assert repr(client) == "Backdrop('https://example.com/api')"
        assert "bd_secret" not in repr(client._address)
    assert repr(AsyncBackdrop("http://h", "bd_secret")) == "AsyncBackdrop('http://h')"


def test_triton_without_tritonclient(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(MissingExtra, match=r"pip install 'backdrop\[triton\]'"):
        Backdrop.triton("127.0.0.1:8001")
