"""What the REST gateway adds to a request: the whole, less the call to Triton.

    python -m benchmarks.gateway --repository build/tiny-openvino-fp32

Requests one after another, a JPEG photo of 1024 x 1024 px in base64, JPEG bytes back. The time in
Triton is the gateway's own: the stage ``triton`` on its metrics page, read after each request.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.progress import track

from backdrop_client import examples
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from benchmarks.conditions import write_result
from benchmarks.processes import gateway

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
        gateway(server.http_url) as one,
        httpx.Client(base_url=one.url, headers={"x-api-key": one.key}, timeout=120) as client,
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
