"""What an operator and a reader of the documentation get: pages, metrics, logs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.gateway.servers import (
    GatewayProcess,
    body,
    gateway_process,
    in_base64,
    wait_for_end,
)

pytestmark = pytest.mark.triton


def samples_of(gateway: GatewayProcess) -> dict[tuple[str, ...], float]:
    """Every sample of ``/metrics``: its name and its labels' values, and the number."""
    page = httpx.get(f"{gateway.url}/metrics").raise_for_status()
    assert page.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def when_idle(gateway: GatewayProcess) -> dict[tuple[str, ...], float]:
    """The same, when no job is left of other tests."""
    for _ in range(300):
        found = samples_of(gateway)
        if found["backdrop_jobs", "waiting"] == found["backdrop_jobs", "in_triton"] == 0:
            return found
        time.sleep(0.1)
    raise AssertionError(f"jobs are left: {found}")


def test_the_queue_depth_is_told(gateway: GatewayProcess, client: httpx.Client) -> None:
    when_idle(gateway)
    long = body(num_inference_steps=100, scheduler="Heun", samples=4)
    job_id = client.post("/v2/bg-replace", json=long).json()["request_id"]
    for _ in range(100):
        if seen := samples_of(gateway)["backdrop_jobs", "in_triton"]:
            break
        time.sleep(0.05)
    assert seen == 1
    client.delete(f"/v2/requests/{job_id}")
    when_idle(gateway)


def test_the_documentation_page_needs_nothing_from_outside(gateway: GatewayProcess) -> None:
    page = httpx.get(f"{gateway.url}/docs").raise_for_status()
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(links) >= 3
    texts = [page.text]
    for link in links:
        assert link.startswith("/") and not link.startswith("//"), link
        file = httpx.get(f"{gateway.url}{link}").raise_for_status()
        if "css" in file.headers["content-type"]:
            texts.append(file.text)
    for text in texts:
        fetched = re.findall(r"""(?:src=|href=|url\(|@import )["']?(?:https?:)?//[^"')]+""", text)
        assert not [link for link in fetched if "www.w3.org" not in link], fetched
    assert not re.findall(r"""["'](?:https?:)?//""", page.text)


def test_the_document_has_examples_that_work(gateway: GatewayProcess, client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["APIKeyHeader"]["name"] == "x-api-key"
    posts = {path: item["post"] for path, item in document["paths"].items() if "post" in item}
    assert set(posts) == {"/v1/bg-replace", "/v2/bg-replace", "/v2/bg-replace/matte"}
    for path, post in posts.items():
        example = post["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path, json=example).status_code == 200
        assert {"400", "401", "415", "429", "503"} <= set(post["responses"])


def test_the_document_has_the_contracts_ranges(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/bg-replace"]["post"]["requestBody"]["content"]
    fields = content["application/json"]["schema"]["properties"]
    steps, seed = fields["num_inference_steps"], fields["seed"]
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (20, 100, 25)
    assert (seed["minimum"], seed["maximum"], seed["default"]) == (-1, 999_999_999_999_999, -1)
    assert fields["scheduler"]["default"] == "DPM2 Karras"
    assert "webhook_url" not in fields


def test_health(gateway: GatewayProcess) -> None:
    assert httpx.get(f"{gateway.url}/healthz").json() == {"alive": True}
    assert httpx.get(f"{gateway.url}/readyz").json() == {"ready": True, "tritons": 1}


def test_metrics_count_what_was_done(gateway: GatewayProcess, client: httpx.Client) -> None:
    before = when_idle(gateway)
    client.post("/v1/bg-replace", json=body(samples=5))
    httpx.get(f"{gateway.url}/nowhere")
    done = client.post("/v1/bg-replace", json=body())
    after = when_idle(gateway)

    def grown(*sample: str) -> float:
        return after.get(sample, 0.0) - before.get(sample, 0.0)

    assert grown("backdrop_requests_total", "/v1/bg-replace", "200") == 1
    assert grown("backdrop_requests_total", "/v1/bg-replace", "400") == 1
    assert grown("backdrop_requests_total", "none", "404") == 1
    assert grown("backdrop_errors_total", "invalid input") == 1
    assert grown("backdrop_errors_total", "url") == 1
    assert grown("backdrop_jobs_ended_total", "COMPLETED") == 1
    for stage in ("read", "admit", "wait", "triton", "finish"):
        assert grown("backdrop_stage_seconds_count", stage) >= 1, stage
    assert grown("backdrop_stage_seconds_sum", "triton") > 0.01
    paid = float(done.headers["x-credits-consumed"])
    assert grown("backdrop_billed_credits_total") == pytest.approx(paid)
    assert grown("backdrop_billed_seconds_total") == pytest.approx(paid / 0.0015, rel=1e-3)
    (up,) = [value for name, value in after.items() if name[0] == "backdrop_triton_up"]
    assert up == 1


def log_lines(log_file: Path) -> list[dict[str, Any]]:
    """Each line is an object of JSON."""
    return [json.loads(line) for line in log_file.read_text().splitlines()]


def test_logs_are_json_and_hold_no_prompt_picture_or_key(
    server: TritonServer, tmp_path: Path
) -> None:
    prompt = "XYZZY a marked prompt"
    picture = in_base64(pictures.png(pictures.product(seed=5)))
    with gateway_process(tmp_path, server.http_url, log_level="DEBUG") as gateway:
        key = gateway.make_key()
        with gateway.client(key) as client:
            marked = body(prompt=prompt, negative_prompt=prompt, image=picture)
            ids = [client.post("/v1/bg-replace", json=marked).headers["x-request-id"]]
            submitted = client.post("/v2/bg-replace", json=marked | {"base64": True})
            ids.append(submitted.headers["x-request-id"])
            wait_for_end(client, ids[-1])
            for wrong in ({"samples": 5}, {"image": in_base64(pictures.damaged_png())}):
                answer = client.post("/v1/bg-replace", json=marked | wrong)
                assert answer.status_code == 400
                ids.append(answer.headers["x-request-id"])
        with gateway.client(key[:-1]) as stranger:
            assert stranger.post("/v1/bg-replace", json=marked).status_code == 401
        store = tmp_path / "pictures"
        store.rename(tmp_path / "moved")
        store.write_text("no folder can be made here")
        with gateway.client(key) as client:
            failed = client.post("/v2/bg-replace", json=marked)
            assert failed.status_code == 500
            ids.append(failed.headers["x-request-id"])
    text = gateway.log_file.read_text()
    lines = log_lines(gateway.log_file)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    for request_id in ids:
        (answered,) = [
            line
            for line in lines
            if line.get("request_id") == request_id and line["message"] == "answered"
        ]
        assert answered["route"].endswith("/bg-replace")
        assert answered["key"] == key.split("_")[1]
        assert answered["seconds"] >= 0
    assert "XYZZY" not in text
    assert key not in text
    assert key.split("_", 2)[2] not in text
    assert picture[:60] not in text
    assert picture[1000:1060] not in text
    assert "iVBORw0KGgo" not in text
