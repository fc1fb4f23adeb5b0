"""What the REST gateway adds to a request: the whole, less the call to Triton.

    python -m benchmarks.gateway --repository build/tiny-openvino-fp32

Requests one after another, a JPEG photo of 1024 x 1024 px in base64, JPEG bytes back. The time in
Triton is the gateway's own: the stage ``triton`` on its metrics page, read after each request.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.progress import track

from backdrop_client import examples
from backdrop_server.gateway.server import make_first_key
from backdrop_server.settings import load_settings
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result

SIDE = 1024
WARM_UP, COUNTED = 5, 40
_TRITON_SECONDS = re.compile(r'^backdrop_stage_seconds_sum\{stage="triton"\} (\S+)$', re.MULTILINE)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repository", type=Path, required=True)
    options = parser.parse_args()
    launch = LaunchSettings(options.repository, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer(launch, on_line=lambda line: None) as server,
        tempfile.TemporaryDirectory() as folder,
        _gateway(server.http_url, folder) as client,
    ):
        rows = [_measure(client) for _ in track(range(WARM_UP + COUNTED), "requests")][WARM_UP:]
    overheads = sorted(1000 * (whole - triton) for whole, triton in rows)
    result = {
        "bundle_and_engine": options.repository.name,
        "photo": f"JPEG {SIDE}x{SIDE}",
        "requests": COUNTED,
        "overhead_ms": {
            "median": round(statistics.median(overheads), 2),
            "p95": round(overheads[int(0.95 * len(overheads))], 2),
            "max": round(overheads[-1], 2),
        },
        "triton_ms": {"median": round(1000 * statistics.median(t for _, t in rows), 1)},
    }
    print(write_result("gateway", result).read_text())


@contextlib.contextmanager
def _gateway(triton_url: str, folder: str) -> Iterator[httpx.Client]:
    """A gateway process with a database of its own, and a client with its first key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"data_dir": folder, "triton_url": triton_url, "port": str(port)}
    key = make_first_key(load_settings(own))
    environment = {f"BACKDROP_{name.upper()}": value for name, value in own.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "backdrop_server.gateway"],
        env=os.environ | environment,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, headers={"x-api-key": key or ""}, timeout=120) as client:
            _wait(client)
            yield client
    finally:
        process.terminate()
        process.wait()


def _wait(client: httpx.Client) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise SystemExit("the gateway did not come up")


def _measure(client: httpx.Client) -> tuple[float, float]:
    """Seconds of one request as its sender sees them, and of these in Triton."""
    body = _body()
    before = _seconds_in_triton(client)
    begun = time.perf_counter()
    answer = client.post("/v1/bg-replace", json=body)
    whole = time.perf_counter() - begun
    answer.raise_for_status()
    return whole, _seconds_in_triton(client) - before


def _seconds_in_triton(client: httpx.Client) -> float:
    found = _TRITON_SECONDS.search(client.get("/metrics").text)
    return float(found[1]) if found else 0.0


def _body() -> dict[str, Any]:
    with Image.open(examples.path("product.jpg")) as picture:
        photo = io.BytesIO()
        picture.convert("RGB").resize((SIDE, SIDE)).save(photo, "JPEG", quality=95)
    return {
        "image": base64.b64encode(photo.getvalue()).decode(),
        "ref_image": base64.b64encode(examples.path("reference.jpg").read_bytes()).decode(),
        "prompt": "a bottle of soap on a wooden table",
        "scheduler": "Euler",
        "num_inference_steps": 20,
        "strength": 0.05,
        "base64": False,
    }


if __name__ == "__main__":
    main()
