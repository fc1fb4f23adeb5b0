"""`backdrop serve` under faults: each process of it killed or stopped; readiness tells the truth."""

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
import pytest

from backdrop_server.triton.vitals import model_of
from tests.gateway.servers import body, free_port, in_base64, wait_until
from tests.pictures import decode, png, product, scene

pytestmark = pytest.mark.triton

UNREADY_WITHIN = 2.0
MENDED_WITHIN = 60.0
BACKDROP = Path(sys.executable).with_name("backdrop")


class Served:
    """A running ``backdrop serve`` on a tiny repository, seen from outside."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: any("first key" in line for line in self.lines), 120)
        self.key = next(line for line in self.lines if "first key" in line).split()[5]
        wait_until(self.is_ready, 60)

    def _read(self) -> None:
        assert self.process.stderr is not None
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


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    port = free_port()
    command = [str(BACKDROP), "serve", "--repository", str(repository), f"--port={port}"]
    ports = [f"--triton-{name}-port=0" for name in ("http", "grpc", "metrics")]
    with tempfile.TemporaryDirectory() as data, subprocess.Popen(
        [*command, *ports, "--data-dir", data],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"},
    ) as process:  # fmt: skip
        try:
            served = Served(process, f"http://127.0.0.1:{port}")
            yield served
            served.stop()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("denoise", signal.SIGKILL),
        ("postprocess", signal.SIGSTOP),
        ("triton", signal.SIGSTOP),
        ("gateway", signal.SIGKILL),
        ("gateway", signal.SIGSTOP),
    ],
)
def test_a_fault_is_told_in_two_seconds_and_mended(
    served: Served, name: str, number: signal.Signals
) -> None:
    wait_until(served.is_ready, 60)
    fields = {
        "image": in_base64(png(product())), "ref_image": in_base64(png(scene())), "seed": 5,
        "output_format": "png", "base64": False,
    }  # fmt: skip
    with httpx.Client(base_url=served.url, headers={"x-api-key": served.key}) as client:
        calm = client.post("/v1/bg-replace", json=body(**fields), timeout=120).raise_for_status()
        hit = client.post(
            "/v2/bg-replace", json=body(**fields, scheduler="DPM2 Karras"), timeout=60
        ).raise_for_status()
        victim = served.processes()[name]
        victim.send_signal(number)
        wait_until(lambda: not served.is_ready(), UNREADY_WITHIN)
        wait_until(served.is_ready, MENDED_WITHIN)
        result_url = f"/v2/requests/{hit.json()['request_id']}"
        wait_until(lambda: client.get(result_url).json()["status"] == "COMPLETED", 60)
        again = client.post("/v1/bg-replace", json=body(**fields), timeout=120).raise_for_status()
    assert (decode(again.content) == decode(calm.content)).all()
    assert not psutil.pid_exists(victim.pid) or victim.status() == psutil.STATUS_ZOMBIE
    assert sum("starting it again" in line for line in served.lines) >= 1
