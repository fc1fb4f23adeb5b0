"""Servers that a bench starts and ends: the gateway, and any other that answers over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from backdrop_server.child_processes import spawn
from backdrop_server.gateway.server import make_first_key
from backdrop_server.settings import load_settings

START_SECONDS = 180.0


@dataclasses.dataclass(frozen=True)
class RunningGateway:
    """``url``: its root; ``key``: one with credits; ``price``: credits a second."""

    url: str
    key: str
    price: float

    def seconds_billed(self, answer: httpx.Response) -> float:
        """Engine seconds that the answer of a request was billed for."""
        return float(answer.headers["x-credits-consumed"]) / self.price


@contextlib.contextmanager
def gateway(triton_url: str, **settings: str) -> Iterator[RunningGateway]:
    """A gateway process before Triton with a database of its own, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        own = {"data_dir": folder, "triton_url": triton_url, "port": str(port), **settings}
        loaded = load_settings(own)
        key = make_first_key(loaded)
        environment = {f"BACKDROP_{name.upper()}": value for name, value in own.items()}
        with process(["-m", "backdrop_server.gateway"], environment, port, "/readyz"):
            yield RunningGateway(
                f"http://127.0.0.1:{port}", key or "", float(loaded.price_per_second)
            )


@contextlib.contextmanager
def process(
    command: Sequence[str], environment: Mapping[str, str], port: int, path: str
) -> Iterator[None]:
    """A Python process that is up when it answers GET ``path``; ended with the block, or with us."""
    started = spawn(
        [sys.executable, *command], env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        _wait(started, f"http://127.0.0.1:{port}{path}")
        yield
    finally:
        started.terminate()
        started.wait()


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(started: subprocess.Popen[Any], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and started.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).is_success:
                return
        time.sleep(0.1)
    raise SystemExit(f"{started.args!r} did not come up")
