"""Ways in: Triton by ``tritonclient`` alone, the REST gateway, and what they are measured against."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

from backdrop_client.triton import replace
from backdrop_server.gateway.server import make_first_key
from backdrop_server.settings import load_settings
from benchmarks.load.arrivals import MOST_WAITING, Fields, Send

_COUNTER = re.compile(r"^backdrop_engine_(calls|rows)_total\{[^}]*\} (\S+)$", re.MULTILINE)
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
def rest(triton_url: str) -> Iterator[Send]:
    """A gateway of its own before Triton, with a database and a key that has credits."""
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        own = {
            "data_dir": folder,
            "triton_url": triton_url,
            "port": str(port),
            "max_waiting": str(MOST_WAITING),
        }
        key = make_first_key(load_settings(own))
        environment = {f"BACKDROP_{name.upper()}": value for name, value in own.items()}
        with _process(["-m", "backdrop_server.gateway"], environment, port, "/readyz"):
            yield _posting(f"http://127.0.0.1:{port}/v1/bg-replace", {"x-api-key": key or ""})


@contextlib.contextmanager
def eager(bundle: Path) -> Iterator[Send]:
    """diffusers' pipeline behind FastAPI with a lock, as people write it."""
    port = _free_port()
    command = ["-m", "benchmarks.load.eager", "--bundle", str(bundle), "--port", str(port)]
    with _process(command, {}, port, "/"):
        yield _posting(f"http://127.0.0.1:{port}/v1/bg-replace", {})


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


def _posting(url: str, headers: Mapping[str, str]) -> Send:
    client = httpx.Client(
        headers=dict(headers), timeout=PATIENCE, limits=httpx.Limits(max_connections=MOST_WAITING)
    )

    def send(fields: Fields) -> Mapping[str, Any]:
        body = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in fields.items()
        }
        client.post(url, json=body).raise_for_status()
        return {}

    return send


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _process(command: list[str], own: Mapping[str, str], port: int, path: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *command], env=os.environ | own, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}{path}").is_success, process)
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for(is_up: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if is_up():
                return
        time.sleep(0.1)
    raise SystemExit(f"{process.args!r} did not come up")
