"""Pictures in S3: a real S3 server (moto's) on loopback behind `store` and `store_options`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from backdrop_server.triton.launcher import TritonServer
from tests.gateway.books import find_job
from tests.gateway.servers import (
    GatewayProcess,
    body,
    free_port,
    gateway_process,
    wait_for_end,
    wait_until,
)
from tests.pictures import decode

pytestmark = pytest.mark.triton

BUCKET = "pictures"
KEEP = 6.0


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Address and keys of a running S3 with an empty bucket, as boto names them."""
    peer = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    peer.start()
    host, port = peer.get_host_and_port()
    access = {
        "endpoint_url": f"http://{host}:{port}",
        "aws_access_key_id": "tests",
        "aws_secret_access_key": "a secret of the tests",
        "region_name": "us-east-1",
    }
    try:
        boto3.client("s3", **access).create_bucket(Bucket=BUCKET)
        yield access
    finally:
        peer.stop()


@pytest.fixture(scope="module")
def gateway(
    server: TritonServer, s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    options = {
        "key": s3["aws_access_key_id"],
        "secret": s3["aws_secret_access_key"],
        "client_kwargs": {"region_name": s3["region_name"]},
        "endpoint_url": s3["endpoint_url"],
    }
    with gateway_process(
        tmp_path_factory.mktemp("store"),
        server.http_url,
        store=f"s3://{BUCKET}/results",
        store_options=options,
        keep_results=KEEP,
    ) as running:
        yield running


def files(s3: dict[str, str]) -> dict[str, int]:
    """Names and sizes of all files in the bucket."""
    answer: dict[str, Any] = boto3.client("s3", **s3).list_objects_v2(Bucket=BUCKET)
    return {item["Key"]: item["Size"] for item in answer.get("Contents", [])}


def test_results_come_from_s3_by_link_and_go_when_their_time_is_over(
    gateway: GatewayProcess, client: httpx.Client, s3: dict[str, str]
) -> None:
    request = body(samples=2, strength=0.1, output_format="png")
    job_id = client.post("/v2/bg-replace", json=request).json()["request_id"]
    end = wait_for_end(client, job_id)
    links = [httpx.get(link) for link in end["output"]]
    assert [decode(link.content).shape for link in links] == [(200, 300, 3)] * 2
    names = [f"results/{job_id}/{k}.png" for k in range(2)]
    # The request's own pictures are gone: they were needed only until its end.
    wait_until(lambda: set(files(s3)) == set(names))
    assert files(s3) == {name: len(link.content) for name, link in zip(names, links, strict=True)}

    wait_until(lambda: find_job(gateway, job_id).swept_at is not None, KEEP + 30)
    options = find_job(gateway, job_id).request.options
    assert (options.prompt, options.negative_prompt) == ("", None)
    assert options.seed == 7
    assert files(s3) == {}
    assert client.get(f"/v2/requests/{job_id}").status_code == 404
    assert {httpx.get(link).status_code for link in end["output"]} == {404}


def test_a_job_finds_its_pictures_in_s3_after_a_kill(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    slow = body(num_inference_steps=100)
    job_id = client.post("/v2/bg-replace", json=slow).json()["request_id"]
    wait_until(lambda: find_job(gateway, job_id).status == "PROCESSING")
    gateway.kill()
    gateway.start()
    assert wait_for_end(client, job_id)["status"] == "COMPLETED"
    assert find_job(gateway, job_id).attempt == 2
