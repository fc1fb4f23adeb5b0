"""v2 beyond the SDK: cancelling, events, quotes, links, idempotency, the matte, the sweep."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as grpcclient
from sqlalchemy import select

from backdrop_server.gateway.tables import jobs as jobs_table
from backdrop_server.gateway.tables import ledger as ledger_table
from backdrop_server.triton.launcher import TritonServer
from tests.gateway.servers import (
    GatewayProcess,
    body,
    gateway_process,
    wait_for_end,
)

pytestmark = pytest.mark.triton
LONG = {"num_inference_steps": 100, "scheduler": "DPM2 Karras", "samples": 4, "base64": True}


def submit(client: httpx.Client, **fields: Any) -> str:
    """The id of a new job."""
    answer = client.post("/v2/bg-replace", json=body(**fields)).raise_for_status()
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    return str(answer.json()["request_id"])


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What ``condition`` says as soon as that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def status_of(client: httpx.Client, job_id: str) -> dict[str, Any]:
    status: dict[str, Any] = client.get(f"/v2/requests/{job_id}/status").json()
    return status


def wait_for_step(client: httpx.Client, job_id: str, step: int = 3) -> dict[str, Any]:
    """The status of a job that has made some steps, and is not at its end."""

    def reached() -> dict[str, Any] | None:
        status = status_of(client, job_id)
        assert status["status"] in ("QUEUED", "PROCESSING"), status
        return status if status["progress"]["step"] >= step else None

    found: dict[str, Any] = wait_until(reached)
    return found


def ledger_of(gateway: GatewayProcess, job_id: str) -> dict[str, Decimal]:
    """The ledger's entries of a job by kind."""
    query = select(ledger_table.c.kind, ledger_table.c.amount).where(
        ledger_table.c.job_id == job_id
    )
    with gateway.database() as database, database.reading() as connection:
        return {kind: Decimal(amount) for kind, amount in connection.execute(query)}


# --- the job's life -------------------------------------------------------------------------------


def test_progress_and_a_preview_while_it_is_painted(client: httpx.Client) -> None:
    job_id = submit(client, **LONG)
    status = wait_for_step(client, job_id)
    progress = status["progress"]
    assert progress["total"] == 199
    assert progress["fraction"] == pytest.approx(progress["step"] / 199, abs=1e-4)
    assert progress["preview"].startswith("data:image/png;base64,")
    assert client.get(f"/v2/requests/{job_id}").json()["output"] is None
    client.delete(f"/v2/requests/{job_id}")


def test_events_show_progress_and_end_with_the_last_status(client: httpx.Client) -> None:
    job_id = submit(client, num_inference_steps=60)
    with client.stream("GET", f"/v2/requests/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(stream.iter_text()).strip().split("\n\n")
    assert all(block.startswith("event: status\ndata: ") for block in blocks)
    events = [json.loads(block.split("data: ", 1)[1]) for block in blocks]
    assert events[-1] == status_of(client, job_id)
    assert events[-1]["status"] == "COMPLETED"
    fractions = [event["progress"]["fraction"] for event in events]
    assert fractions == sorted(fractions)
    assert any(0 < fraction < 1 for fraction in fractions)


def test_delete_cancels_a_running_job_which_pays_for_its_steps(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    whole = client.post("/v2/bg-replace", json=body(dry_run=True, **LONG)).json()["estimate"]
    job_id = submit(client, **LONG)
    wait_for_step(client, job_id)
    answer = client.delete(f"/v2/requests/{job_id}")
    assert answer.status_code == 200
    assert answer.json()["status"] == "FAILED"
    result = client.get(f"/v2/requests/{job_id}")
    assert result.status_code == 422
    assert "cancelled" in result.json()["error"]
    bill = Decimal(result.json()["credits_consumed"])
    assert 0 < bill < Decimal(whole["credits"]) / 2
    assert -sum(ledger_of(gateway, job_id).values()) == bill
    assert client.delete(f"/v2/requests/{job_id}").json()["status"] == "FAILED"


def test_delete_of_a_waiting_job_is_free(server: TritonServer, tmp_path: Path) -> None:
    with (
        gateway_process(tmp_path, server.http_url, max_in_flight=1) as gateway,
        gateway.client(gateway.make_key()) as client,
    ):
        first, second = submit(client, **LONG), submit(client)
        wait_for_step(client, first, 1)
        assert status_of(client, second)["status"] == "QUEUED"
        assert client.delete(f"/v2/requests/{second}").json()["status"] == "FAILED"
        assert sum(ledger_of(gateway, second).values()) == 0
        assert status_of(client, first)["status"] == "PROCESSING"
        client.delete(f"/v2/requests/{first}")


def test_delete_of_an_ended_job_changes_nothing(client: httpx.Client) -> None:
    job_id = submit(client)
    before = wait_for_end(client, job_id)
    assert client.delete(f"/v2/requests/{job_id}").json()["status"] == "COMPLETED"
    assert client.get(f"/v2/requests/{job_id}").json() == before


def test_credits_are_what_the_key_can_still_spend(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    with gateway.client(gateway.make_key("2.5")) as other:
        assert other.get("/v2/credits").json() == {"credits": "2.5"}
    job_id = submit(client)
    bill = Decimal(wait_for_end(client, job_id)["credits_consumed"])
    assert Decimal(client.get("/v2/credits").json()["credits"]) == 1000 - bill
    assert httpx.get(f"{gateway.url}/v2/credits").status_code == 401


def test_another_keys_job_is_as_unknown_as_none(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    job_id = submit(client)
    with gateway.client(gateway.make_key()) as stranger:
        for path in (job_id, "0" * 32, "..", "%00"):
            for method, url in (
                ("GET", f"/v2/requests/{path}"),
                ("GET", f"/v2/requests/{path}/status"),
                ("GET", f"/v2/requests/{path}/events"),
                ("DELETE", f"/v2/requests/{path}"),
            ):
                assert stranger.request(method, url).status_code == 404
    assert httpx.get(f"{gateway.url}/v2/requests/{job_id}").status_code == 401
    assert wait_for_end(client, job_id)["status"] == "COMPLETED"


def test_a_v1_caller_that_goes_away_cancels_its_job(
    gateway: GatewayProcess, server: TritonServer
) -> None:
    with gateway.client(gateway.make_key(), timeout=1.0) as client:
        with contextlib.suppress(httpx.ReadTimeout):
            client.post("/v1/bg-replace", json=body(**LONG))
            raise AssertionError("it was there before the caller had gone")
        query = select(jobs_table.c.id).order_by(jobs_table.c.created_at.desc()).limit(1)
        with gateway.database() as database, database.reading() as connection:
            job_id = connection.execute(query).scalar_one()
        wait_until(lambda: status_of(client, job_id)["status"] == "FAILED")
        result = client.get(f"/v2/requests/{job_id}").json()
    assert "cancelled" in result["error"]
    board = board_of(server, f"{job_id}.1")
    assert board["cancelled"]
    assert board["stage"] == "ended"
    assert 0 < board["step"] < 199
    billed = float(result["credits_consumed"])
    assert billed == pytest.approx(0.0015 * board["engine_seconds"], abs=2e-9)


def board_of(server: TritonServer, request_id: str) -> dict[str, Any]:
    """What Triton's `control` says of a request."""
    with grpcclient.InferenceServerClient(server.grpc_url) as triton:
        inputs = []
        for name, text in (("action", "status"), ("target", request_id)):
            item = grpcclient.InferInput(name, [1, 1], "BYTES")
            item.set_data_from_numpy(bytes_tensor(text))
            inputs.append(item)
        found: dict[str, Any] = json.loads(triton.infer("control", inputs).as_numpy("status")[0, 0])
        return found


def bytes_tensor(text: str) -> Any:
    import numpy as np

    return np.array([[text.encode()]], np.object_)
