"""A running ``backdrop serve``, seen from outside: its processes, its readiness."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from backdrop_server.triton.vitals import model_of
from tests.gateway.servers import free_port, wait_until

BACKDROP = Path(sys.executable).with_name("backdrop")


class Served:
    """One ``backdrop serve``; ``data`` is the folder of its database and pictures."""

    def __init__(self, process: subprocess.Popen[str], url: str, data: Path) -> None:
        self.process = process
        self.url = url
        self.data = data
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: any("first key" in line for line in self.lines), 120)
        self.key = next(line for line in self.lines if "first key" in line).split()[5]
        wait_until(self.is_ready, 60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):  # closed under it, after a test that has failed
            self.lines.extend(iter(self.process.stderr.readline, ""))

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)
        self._reader.join()

    def is_ready(self) -> bool:
        """What ``/readyz`` says; a gateway that does not answer is not ready."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=0.5).status_code == 200
        return False

    def processes(self) -> dict[str, psutil.Process]:
        """By name: ``triton``, ``gateway``, and a stub of each model."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                model = model_of(child)
                if model is not None:
                    found[model] = child
                elif child.name() == "tritonserver":
                    found["triton"] = child
                elif "backdrop_server.gateway" in child.cmdline():
                    found["gateway"] = child
        return found


@contextlib.contextmanager
def serving(repository: Path, **settings: str) -> Iterator[Served]:
    """``backdrop serve`` with environment settings, stopped at the end."""
    port = free_port()
    command = [str(BACKDROP), "serve", "--repository", str(repository), f"--port={port}"]
    ports = [f"--triton-{name}-port=0" for name in ("http", "grpc", "metrics")]
    own = {f"BACKDROP_{name.upper()}": value for name, value in settings.items()}
    with tempfile.TemporaryDirectory() as data, subprocess.Popen(
        [*command, *ports, "--data-dir", data],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"} | own,
    ) as process:  # fmt: skip
        try:
            served = Served(process, f"http://127.0.0.1:{port}", Path(data))
            yield served
            served.stop()
        finally:
            process.kill()
