"""Real gateways as processes of their own, each with a database, a store and keys."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from backdrop_server.gateway import keys, ledger
from backdrop_server.gateway.database import Database
from backdrop_server.settings import load_settings
from backdrop_server.triton.launcher import TritonServer
from tests import pictures

START_SECONDS = 60.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class GatewayProcess:
    """A gateway that tests start, kill and start again; ``folder`` is its data folder."""

    def __init__(self, folder: Path, triton_url: str, **settings: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / f"gateway-{self.port}.log"
        own = {"data_dir": folder, "triton_url": triton_url, "port": self.port}
        self._settings = own | settings
        self.settings = load_settings(self._settings)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, until_ready: bool = True) -> None:
        """Start it at its port; wait until it says that a picture could be made."""
        environment = {f"BACKDROP_{n.upper()}": _text(v) for n, v in self._settings.items()}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "backdrop_server.gateway"],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        if until_ready:
            self.wait_until_ready()

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait for ``/readyz``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self.log_file.read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the gateway is not ready: {self.log_file.read_text()}")

    def kill(self) -> None:
        """Kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait for the end; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=90)

    def make_key(self, balance: str = "1000", **options: Any) -> str:
        """A key's text."""
        with self.database() as database, database.writing() as connection:
            key, text = keys.create(connection, "test", **options)
            if Decimal(balance):
                ledger.grant(connection, key.id, Decimal(balance), "test")
            return text

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """The gateway's database, with its tables."""
        with contextlib.closing(Database(self.settings.database_url)) as database:
            database.migrate()
            yield database

    def client(self, key: str = "", **options: Any) -> httpx.Client:
        """A client with the key."""
        headers = {"x-api-key": key} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, **({"timeout": 120} | options))


@contextlib.contextmanager
def gateway_process(folder: Path, triton_url: str, **settings: object) -> Iterator[GatewayProcess]:
    """A running gateway that is stopped at the end."""
    gateway = GatewayProcess(folder, triton_url, **settings)
    gateway.start()
    try:
        yield gateway
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop()


@contextlib.contextmanager
def held(server: TritonServer) -> Iterator[None]:
    """The server and its stubs take no step."""
    os.killpg(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGCONT)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Look again and again whether ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass in {seconds} s"
        time.sleep(0.05)


def body(**fields: Any) -> dict[str, Any]:
    """A request that is in order: a product on white, 20 steps of Euler."""
    return {
        "image": in_base64(pictures.png(pictures.product())),
        "ref_image": in_base64(pictures.png(pictures.scene())),
        "prompt": "a wooden table in a forest",
        "scheduler": "Euler",
        "num_inference_steps": 20,
        "seed": 7,
    } | fields


def _text(value: object) -> str:
    """A setting as environment variables have it."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


def in_base64(data: bytes) -> str:
    """As the API's JSON carries bytes."""
    return base64.b64encode(data).decode()


def wait_for_end(client: httpx.Client, request_id: str, seconds: float = 120) -> Mapping[str, Any]:
    """Poll the status of a job until it has ended; the body of its result."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = client.get(f"/v2/requests/{request_id}/status").json()
        if status["status"] in ("COMPLETED", "FAILED"):
            result: dict[str, Any] = client.get(f"/v2/requests/{request_id}").json()
            return result
        time.sleep(0.1)
    raise AssertionError(f"{request_id} did not end; last seen: {status}")
