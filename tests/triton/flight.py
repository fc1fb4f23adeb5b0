"""Requests in flight together, the board seen from outside, and the server's own statistics."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from backdrop_client.triton import Replaced, replace
from backdrop_server.triton.launcher import TritonServer
from tests import pictures


def fields_of(photo: tuple[int, int] = (200, 200), **options: Any) -> dict[str, Any]:
    """A request with a raw PNG answer; ``photo`` is width and height."""
    return {
        "image": pictures.png(pictures.product(*photo)),
        "mask_image": pictures.png(pictures.product_mask(*photo)),
        "ref_image": pictures.png(pictures.scene()),
        "prompt": "a wooden table in a forest at sunset",
        "num_inference_steps": 20,
        "seed": 11,
        "preserve_subject": False,
        "output_format": "png",
    } | options


class Flight:
    """Sends requests from threads of its own over one gRPC channel."""

    def __init__(self, server: TritonServer, width: int = 80) -> None:
        self._server = server
        self._pool = ThreadPoolExecutor(width)
        self.client = grpcclient.InferenceServerClient(server.grpc_url)

    def __enter__(self) -> Flight:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True)
        self.client.close()

    def send(self, fields: Mapping[str, Any], request_id: str = "") -> Future[Replaced]:
        """Start one request."""
        return self._pool.submit(replace, self.client, grpcclient, request_id=request_id, **fields)

    def ask(self, fields: Mapping[str, Any]) -> Replaced:
        """One request by itself."""
        return self.send(fields).result()

    def ask_all(self, requests: Iterable[Mapping[str, Any]]) -> list[Replaced]:
        """All requests at once."""
        return [future.result() for future in [self.send(fields) for fields in requests]]

    def control(self, action: str, request_id: str | None = None) -> dict[str, Any]:
        """What `control` says of a request, or of the server."""
        given = {"action": action} | ({} if request_id is None else {"target": request_id})
        inputs = []
        for name, value in given.items():
            item = grpcclient.InferInput(name, [1, 1], "BYTES")
            item.set_data_from_numpy(np.array([[value.encode()]], np.object_))
            inputs.append(item)
        answer = self.client.infer("control", inputs)
        status: dict[str, Any] = json.loads(answer.as_numpy("status")[0, 0])
        preview = answer.as_numpy("preview")[0, 0]
        return {**status, "preview": bytes(preview)}

    def wait_for(
        self, request_id: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 60
    ) -> dict[str, Any]:
        """Poll the board until ``reached``; fails after ``seconds``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.control("status", request_id)
            if reached(status):
                return status
            time.sleep(0.01)
        raise AssertionError(f"{request_id} did not get there; last seen: {status}")

    def statistics(self, model: str = "denoise") -> tuple[int, int]:
        """Triton's own count of inferences and of executions of a model."""
        stats = self.client.get_inference_statistics(model).model_stats[0]
        return int(stats.inference_count), int(stats.execution_count)

    def metric(self, name: str) -> float:
        """One of our metrics on Triton's page."""
        url = f"http://127.0.0.1:{self._server.metrics_port}/metrics"
        with urllib.request.urlopen(url) as page:
            text = page.read().decode()
        found = re.search(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is not on the metrics page"
        return float(found[1])
