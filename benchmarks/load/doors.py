"""Ways in: Triton by ``tritonclient`` alone, the REST gateway, and what they are measured against."""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

from backdrop_client.errors import Overloaded
from backdrop_client.load import MOST_WAITING, Fields, Send
from backdrop_client.triton import replace
from benchmarks.processes import free_port, gateway, process

_COUNTER = re.compile(r"^backdrop_engine_(calls|rows)_total\{[^}]*\} (\S+)$", re.MULTILINE)
_REFUSALS = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
ROUTE = "/v1/bg-replace"
PATIENCE = 600.0
"""Seconds for one answer."""


@contextlib.contextmanager
def grpc(url: str) -> Iterator[Send]:
    """Triton over gRPC."""
    with grpcclient.InferenceServerClient(url) as client:
        yield _through(client, grpcclient)


@contextlib.contextmanager
def http(url: str) -> Iterator[Send]:
    """Triton over HTTP: a client for each thread, since theirs is not for several."""
    local = threading.local()

    def send(fields: Fields) -> Mapping[str, Any]:
        if not hasattr(local, "send"):
            client = httpclient.InferenceServerClient(url, network_timeout=PATIENCE)
            local.send = _through(client, httpclient)
        report: Mapping[str, Any] = local.send(fields)
        return report

    yield send


def _through(client: Any, module: ModuleType) -> Send:
    def send(fields: Fields) -> Mapping[str, Any]:
        return replace(client, module, **fields).report

    return send


@contextlib.contextmanager
def rest(triton_url: str, **settings: str) -> Iterator[Send]:
    """A gateway of its own before Triton, with a database and a key that has credits."""
    with gateway(triton_url, **settings) as one, _pool() as client:
        yield _posting(client, one.url + ROUTE, {"x-api-key": one.key}, one.seconds_billed)


@contextlib.contextmanager
def eager(bundle: Path, precision: str) -> Iterator[Send]:
    """diffusers' pipeline behind FastAPI with a lock, as people write it; ``precision``: fp32, bf16."""
    port = free_port()
    command = ["-m", "benchmarks.load.eager", "--bundle", str(bundle), "--port", str(port)]
    command += ["--precision", precision]
    with process(command, {}, port, "/"), _pool() as client:
        yield _posting(
            client,
            f"http://127.0.0.1:{port}{ROUTE}",
            {},
            lambda answer: float(answer.json()["seconds"]),
        )


def one_at_a_time(send: Send) -> Send:
    """The same door behind a lock that is given in order of arrival."""
    turns = _Turns()

    def locked(fields: Fields) -> Mapping[str, Any]:
        with turns.taken():
            return send(fields)

    return locked


class _Turns:
    """A lock that serves in the order in which it was asked for; ``threading.Lock`` does not."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        me = object()
        with self._changed:
            self._waiting.append(me)
            self._changed.wait_for(lambda: self._waiting[0] is me)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()


def counters(metrics_url: str) -> dict[str, float]:
    """Calls of the engine and rows in them so far, from Triton's metrics."""
    with urllib.request.urlopen(f"http://{metrics_url}/metrics") as page:
        text = page.read().decode()
    return {name: float(value) for name, value in _COUNTER.findall(text)}


def _pool() -> httpx.Client:
    return httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_connections=MOST_WAITING))


def _posting(
    client: httpx.Client,
    url: str,
    headers: Mapping[str, str],
    seconds_billed: Callable[[httpx.Response], float],
) -> Send:
    def send(fields: Fields) -> Mapping[str, Any]:
        body = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in fields.items()
        }
        answer = client.post(url, json=body | {"base64": True}, headers=headers)
        if answer.status_code in _REFUSALS:
            raise Overloaded(f"Retry-After: {answer.headers['retry-after']}")
        answer.raise_for_status()
        return {"seconds_billed": seconds_billed(answer)}

    return send
